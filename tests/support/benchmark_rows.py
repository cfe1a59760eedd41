"""Rows in the fields of public benchmarks of reward models, and the code of one that is installed.

The texts are made up.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

REWARD_BENCH: dict[str, Any] = {
    "prompt": "Write a Python function `add(a, b)` that adds two numbers.\n",
    "chosen": "def add(a, b):\n    return a + b\n",
    "chosen_model": "human",
    "rejected": "def add(a, b):\n    return a - b\n",
    "rejected_model": "human",
    "subset": "hep-python",
    "id": 4071,
}
RM_BENCH: dict[str, Any] = {
    "id": 8,
    "prompt": "Write a C++ function `int add(int a, int b)`.",
    "subset": "bigcode/humanevalpack",
    "language": "cpp",
    "task_id": "CPP/8",
    "chosen": [
        "int add(int a, int b) { return a + b; }",
        "The function adds: int add(int a, int b) { return a + b; }",
        "## Solution\n```cpp\nint add(int a, int b) { return a + b; }\n```",
    ],
    "rejected": [
        "int add(int a, int b) { return a - b; }",
        "The function adds: int add(int a, int b) { return a - b; }",
        "## Solution\n```cpp\nint add(int a, int b) { return a - b; }\n```",
    ],
}
REWARD_BENCH_2: dict[str, Any] = {
    "id": "17",
    "prompt": "Name a prime below ten.",
    "chosen": ["7"],
    "rejected": ["8", "9", "4"],
    "num_correct": 1,
    "num_rejected": 3,
    "total_completions": 4,
    "models": ["human", "a", "b", "c"],
    "subset": "Math",
    "additional_metadata": {"category": None},
}
TIES: dict[str, Any] = REWARD_BENCH_2 | {
    "id": "tied:3",
    "prompt": "Name a colour of the rainbow.",
    "chosen": ["Red", "Green", "Blue"],
    "rejected": ["Brown", "Grey"],
    "num_correct": 3,
    "num_rejected": 2,
    "total_completions": 5,
    "subset": "Ties",
}
TIES_REFERENCE: dict[str, Any] = TIES | {
    "id": "ref:3",
    "prompt": "Name the first colour of the rainbow.",
    "chosen": ["Red"],
    "rejected": ["Brown", "Grey"],
    "num_correct": 1,
    "total_completions": 3,
}
THEMIS: dict[str, Any] = {
    "prompt": "Write a function that adds two numbers.",
    "chosen": "int add(int a, int b) { return a + b; }",
    "rejected": "int add(int a, int b) { int c = a; c = c + b; return c; }",
    "language": "C++",
    "aspect": "Readability_Maintainability",
    "subset": "Commit",
    "id": "themis-1",
}
JUDGE_BENCH: dict[str, Any] = {
    "pair_id": "81ec57f2",
    "original_id": "10646",
    "source": "livecodebench",
    "question": "Write a function that adds two numbers.",
    "response_model": "some-model",
    "response_A": "def add(a, b): return a - b",
    "response_B": "def add(a, b): return a + b",
    "label": "B>A",
}
CODE_JUDGE_BENCH: dict[str, Any] = {
    "question_title": "Add",
    "question_content": "Write a function that adds two numbers.",
    "platform": "leetcode",
    "question_id": "3",
    "starter_code": "def add(a, b):",
    "difficulty": "easy",
    "pos_response": "def add(a, b): return a + b",
    "neg_response": "def add(a, b): return a - b",
}


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
