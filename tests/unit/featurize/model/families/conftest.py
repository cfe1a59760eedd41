"""Fixtures for the tests of llama-MTP checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.llama_mtp_files import (
    VOCAB,
    Tensors,
    make_weights,
    write_checkpoint,
    write_shards,
)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights() -> Tensors:
    return make_weights()


@pytest.fixture(params=[write_checkpoint, write_shards], ids=["pth", "shards"])
def write(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Write a checkpoint as one pickled file, or as safetensors shards."""
    writer: Callable[..., Path] = request.param
    return writer
