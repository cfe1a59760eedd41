"""Where the backbone of a head is looked for when a file is scored."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.loader import load_config, to_dict
from configs.options import Chosen
from configs.project import _places

POLICY = "models.policy"


def places(*overrides: str, has_config: bool, **recorded: Any) -> list[str]:
    """Paths in the order they are tried; `recorded` is the backbone in the head's record."""
    settings = load_config(Path("demo.yaml"), [f"{POLICY}.path=configured", *overrides])
    config = to_dict(load_config(Path("demo.yaml"), [f"{POLICY}.path=recorded"]))
    config["models"]["policy"] |= recorded
    record = SimpleNamespace(config=config, recipe_fingerprint="recipe", folder="")
    head: Any = SimpleNamespace(record=record, path="head")
    chosen = Chosen(Path("demo.yaml") if has_config else None, overrides)
    return [place.path for place in _places(head, settings, chosen)]


def test_a_configuration_names_another_place() -> None:
    assert places(has_config=True) == ["configured", "recorded"]
    assert places(has_config=False) == ["recorded"]


@pytest.mark.parametrize("name", ["path", "tokenizer_path", "revision"])
def test_a_place_on_the_command_line_is_the_only_one(name: str) -> None:
    found = places(f"{POLICY}.{name}=named", has_config=False)
    assert len(found) == 1
    assert found != ["recorded"]


def test_a_tokenizer_elsewhere_is_another_place() -> None:
    found = places(has_config=True, path="configured", tokenizer_path="elsewhere")
    assert found == ["configured", "configured"]
