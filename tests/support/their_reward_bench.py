"""The functions of the package rewardbench, if it is installed."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest


def load_reward_bench(monkeypatch: pytest.MonkeyPatch, name: str = "utils") -> Any:
    """Load a module of rewardbench; skip the test without the package or what it imports.

    Its models are replaced by an empty module: they need an older transformers, and the functions
    that are compared do not use them.
    """
    package = importlib.util.find_spec("rewardbench")
    if package is None or not package.submodule_search_locations:
        pytest.skip("rewardbench is not installed")
    models = ModuleType("rewardbench.models")
    models.REWARD_MODEL_CONFIG = {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rewardbench.models", models)
    path = f"{package.submodule_search_locations[0]}/{name}.py"
    spec = importlib.util.spec_from_file_location(f"their_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        pytest.skip(f"rewardbench cannot be imported: {error}")
    return module
