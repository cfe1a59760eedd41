"""Weights that are no weights, or of another model than the config, are found at the plan."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedConfig

from featurize.errors import CriticError
from featurize.model.limits import check_weights
from featurize.settings import BackboneSettings
from tests.support.tiny_models import write_tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model")


def check(folder: Path, **changes: int) -> None:
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    check_weights(folder, config, BackboneSettings(name="tiny", path=str(folder)))


def test_a_whole_model_passes_in_silence(model: Path, caplog: pytest.LogCaptureFixture):
    check(model)
    assert not caplog.records


def test_a_pointer_of_git_lfs_is_no_model(model: Path):
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(CriticError, match=r"model\.safetensors: is a pointer .* `git lfs pull`"):
        check(model)


def test_an_embedding_of_other_rows_than_the_config_says_is_refused(model: Path):
    rows = load_file(model / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    with pytest.raises(CriticError, match=rf"has {rows} rows, .* vocab_size 100000;"):
        check(model, vocab_size=100_000)


def test_blocks_that_the_config_leaves_out_are_warned_of(
    model: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        check(model, num_hidden_layers=2)
    assert "weights of 3 blocks, but its config.json says num_hidden_layers 2" in caplog.text


def test_blocks_that_predict_further_tokens_are_no_blocks_too_many(
    model: Path, caplog: pytest.LogCaptureFixture
):
    check(model, num_hidden_layers=2, num_nextn_predict_layers=1)
    towers = {"vision_tower.layers.30.weight": torch.zeros(1), "mtp.layers.9.w": torch.zeros(1)}
    save_file(towers, model / "model-2.safetensors")
    check(model)
    assert not caplog.records


def test_a_damaged_header_is_left_to_the_library(model: Path):
    (model / "model.safetensors").write_bytes(b"weights")
    check(model)
