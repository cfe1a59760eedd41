"""Where the backbone of a head is looked for when a file is scored."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.loader import load_config
from headtrain.scoring.external import _places


def places(*overrides: str, has_config: bool, **recorded: Any) -> list[str]:
    """Paths in the order they are tried; `recorded` is what the head says of its backbone."""
    settings = load_config(Path("demo.yaml"), ["models.policy.path=configured", *overrides])
    backbone = dataclasses.replace(settings.models.policy, path="recorded")
    origin = SimpleNamespace(backbone=dataclasses.replace(backbone, **recorded))
    found = _places(origin, settings, overrides, has_config=has_config)  # type: ignore[arg-type]
    return [place.path for place in found]


def test_a_configuration_says_where_the_backbone_is_now() -> None:
    assert places(has_config=True) == ["configured", "recorded"]
    assert places(has_config=False) == ["recorded"]


@pytest.mark.parametrize("name", ["path", "tokenizer_path", "revision"])
def test_what_the_command_line_names_is_the_only_place(name: str) -> None:
    assert len(places(f"models.policy.{name}=named", has_config=False)) == 1
    assert places(f"models.policy.{name}=named", has_config=False) != ["recorded"]


def test_a_tokenizer_elsewhere_is_another_place() -> None:
    found = places(has_config=True, path="configured", tokenizer_path="elsewhere")
    assert found == ["configured", "configured"]
