"""Limits of a backbone that are known before its weights are read."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    BartConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
)

from featurize.data.plain_text import PlainText
from featurize.errors import CriticError
from featurize.model.limits import (
    check_architecture,
    check_likelihood,
    check_positions,
    check_vocabulary,
    check_weights,
)
from featurize.settings import BackboneSettings
from tests.support.tiny_models import make_tokenizer, write_tiny_llama

SETTINGS = BackboneSettings(name="tiny", path="models/tiny")


def llama(**options: Any) -> PreTrainedConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaConfig(**{**sizes, "intermediate_size": 64, "vocab_size": 320, **options})


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_positions=96, n_embd=32, n_layer=2, n_head=4),
        OPTConfig(
            max_position_embeddings=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
        ),
    ],
)
def test_samples_beyond_a_table_of_positions_are_refused(config: PreTrainedConfig) -> None:
    with pytest.raises(CriticError, match=r"max_length is 2048.*96 positions.*max_length=96"):
        check_positions(config, SETTINGS, 2048)
    check_positions(config, SETTINGS, 96)


def test_samples_beyond_the_trained_rotary_positions_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        check_positions(llama(max_position_embeddings=1024), SETTINGS, 2048)
        (record,) = caplog.records
        assert "2048" in record.getMessage()
        assert "1024 positions" in record.getMessage()
        check_positions(llama(max_position_embeddings=4096), SETTINGS, 2048)
        assert len(caplog.records) == 1


def test_ids_beyond_the_embedding_table_are_refused() -> None:
    check_vocabulary(PlainText(make_tokenizer()).largest_id(), llama(), SETTINGS)
    with pytest.raises(CriticError, match=r"ids up to 319.*has 300 rows"):
        check_vocabulary(PlainText(make_tokenizer()).largest_id(), llama(vocab_size=300), SETTINGS)


def test_an_added_control_token_beyond_the_table_does_no_harm() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert len(tokenizer) == 321
    check_vocabulary(PlainText(tokenizer).largest_id(), llama(), SETTINGS)


def test_the_likelihood_of_a_reward_model_is_refused_by_the_name_of_its_setting() -> None:
    config = llama(architectures=["LlamaForSequenceClassification"])
    with pytest.raises(CriticError, match=r"no lm_head.*featurize\.likelihood=false"):
        check_likelihood(config, SETTINGS)
    check_likelihood(llama(architectures=["LlamaForCausalLM"]), SETTINGS)


def test_encoder_decoders_are_refused_and_decoders_are_not() -> None:
    with pytest.raises(CriticError, match="encoder-decoder"):
        check_architecture(BartConfig(), SETTINGS)
    check_architecture(llama(), SETTINGS)


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
