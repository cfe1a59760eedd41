"""Backbones loaded from a folder as the job loads them, and the errors of doing so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featurize.errors import CriticError
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.families.family import LoadOptions
from featurize.model.source import BackboneSource, find_backbone, load_tokenizer
from featurize.settings import BackboneSettings

CPU = torch.device("cpu")


def load(
    path: Path | str,
    *,
    deepest_layer: int = 10**6,
    with_lm_head: bool = False,
    dtype: torch.dtype = torch.float32,
    is_plain: bool = False,
    **settings: Any,
) -> Backbone:
    """Find and load a backbone and its tokenizer."""
    policy = BackboneSettings(name="tiny", path=str(path), **settings)
    source = find_backbone(policy, Path("nowhere"), dtype)
    load_tokenizer(source, policy)
    return load_backbone(
        source,
        policy,
        device=CPU,
        dtype=dtype,
        deepest_layer=deepest_layer,
        with_lm_head=with_lm_head,
        is_plain=is_plain,
    )


def find(path: Path | str, cache: Path = Path("nowhere"), **settings: Any) -> BackboneSource:
    """Find the files of a backbone."""
    policy = BackboneSettings(name="tiny", path=str(path), **settings)
    return find_backbone(policy, cache, torch.float32)


def load_options(
    dtype: torch.dtype = torch.float32, *, with_lm_head: bool = False, num_layers: int = 10**6
) -> LoadOptions:
    return LoadOptions(device=CPU, dtype=dtype, num_layers=num_layers, with_lm_head=with_lm_head)


def error_of(action: Callable[[], object]) -> str:
    """Return the message of the CriticError, which has one line."""
    with pytest.raises(CriticError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message
