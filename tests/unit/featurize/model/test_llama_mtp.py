"""A llama-MTP checkpoint computes what Meta's forward computes."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from featurize.model.families.llama_mtp import (
    is_llama_mtp,
    load_llama_mtp,
    read_llama_config,
)
from tests.support.llama_mtp_files import (
    DIM,
    FFN,
    HEADS,
    KV_HEADS,
    LAYERS,
    PARAMS,
    VOCAB,
    Tensors,
    make_weights,
    read_hidden,
    run_meta,
    write_checkpoint,
    write_shards,
)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights() -> Tensors:
    return make_weights()


@pytest.mark.parametrize("layout", ["consolidated.pth", "consolidated.00.pth", "shards"])
def test_next_token_path_agrees_with_metas_forward(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor, layout: str
) -> None:
    if layout == "shards":
        folder = write_shards(tmp_path, weights)
    else:
        folder = write_checkpoint(tmp_path, weights, name=layout)
    expected = run_meta(ids, weights, num_layers=LAYERS)
    torch.testing.assert_close(
        read_hidden(folder, ids, "next_token"), expected, atol=1e-5, rtol=1e-5
    )
    model = load_llama_mtp(folder, output="next_token", dtype=torch.float32, with_lm_head=True)
    assert type(model) is LlamaForCausalLM
    logits = model(input_ids=ids[None]).logits[0]
    torch.testing.assert_close(logits, expected @ weights["output.weight"].T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["pth", "shards"])
def test_trunk_is_all_layers_but_the_last_and_then_the_shared_norm(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor, layout: str
) -> None:
    write = write_shards if layout == "shards" else write_checkpoint
    hidden = read_hidden(write(tmp_path, weights), ids, "trunk")
    expected = run_meta(ids, weights, num_layers=LAYERS - 1)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


def test_absent_optional_params_mean_full_attention_heads_and_default_rope(
    tmp_path: Path, ids: torch.Tensor
) -> None:
    weights = make_weights(kv_heads=HEADS)
    params = {key: PARAMS[key] for key in ("dim", "n_layers", "n_future_tokens", "n_heads")}
    folder = write_checkpoint(tmp_path, weights, params)
    expected = run_meta(ids, weights, num_layers=LAYERS, kv_heads=HEADS)
    torch.testing.assert_close(
        read_hidden(folder, ids, "next_token"), expected, atol=1e-5, rtol=1e-5
    )


def test_rope_theta_of_the_params_is_used(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor
) -> None:
    folder = write_checkpoint(tmp_path, weights, PARAMS | {"rope_theta": 500})
    expected = run_meta(ids, weights, num_layers=LAYERS, theta=500.0)
    torch.testing.assert_close(
        read_hidden(folder, ids, "next_token"), expected, atol=1e-5, rtol=1e-5
    )
    other = run_meta(ids, weights, num_layers=LAYERS)
    assert (expected - other).abs().max() > 0.1


def test_a_model_without_extra_heads_is_a_plain_llama(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor
) -> None:
    plain = {key: value for key, value in weights.items() if not key.startswith("extra_heads")}
    params = {k: v for k, v in PARAMS.items() if k != "n_future_tokens"} | {"n_layers": LAYERS}
    hidden = read_hidden(write_checkpoint(tmp_path, plain, params), ids, "next_token")
    expected = run_meta(ids, weights, num_layers=LAYERS)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


def test_config_takes_widths_from_the_weights_and_depth_from_the_output(
    tmp_path: Path, weights: Tensors
) -> None:
    folder = write_checkpoint(tmp_path, weights)
    config = read_llama_config(folder)
    assert config.num_hidden_layers == LAYERS
    assert read_llama_config(folder, output="trunk").num_hidden_layers == LAYERS - 1
    assert (config.hidden_size, config.intermediate_size, config.vocab_size) == (DIM, FFN, VOCAB)
    assert (config.num_attention_heads, config.num_key_value_heads) == (HEADS, KV_HEADS)


def test_only_a_folder_with_params_and_without_config_is_llama_mtp(
    tmp_path: Path, weights: Tensors
) -> None:
    assert not is_llama_mtp(tmp_path / "missing")
    assert not is_llama_mtp(tmp_path)
    write_checkpoint(tmp_path, weights)
    assert is_llama_mtp(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not is_llama_mtp(tmp_path)


def test_every_parameter_has_the_asked_dtype_and_rope_stays_exact(
    tmp_path: Path, weights: Tensors
) -> None:
    folder = write_checkpoint(tmp_path, weights)
    model = load_llama_mtp(folder, output="trunk", dtype=torch.bfloat16, with_lm_head=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.dtype == torch.bfloat16
    width = DIM // HEADS
    expected = 10000.0 ** (-torch.arange(0, width, 2).double() / width)
    for buffer in model.buffers():
        assert buffer.dtype == torch.float32
        torch.testing.assert_close(buffer.double(), expected, atol=1e-7, rtol=1e-6)


def test_the_model_is_frozen_and_nothing_stays_on_the_meta_device(
    tmp_path: Path, weights: Tensors
) -> None:
    folder = write_checkpoint(tmp_path, weights)
    model = load_llama_mtp(folder, output="next_token", dtype=torch.float32, with_lm_head=True)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
