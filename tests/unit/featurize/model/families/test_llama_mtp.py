"""A llama-MTP checkpoint computes what Meta's forward computes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from featurize.model.families.llama_mtp import LlamaMtp, Output
from featurize.settings import BackboneParams, BackboneSettings
from tests.support.llama_mtp_files import (
    DIM,
    FFN,
    HEADS,
    KV_HEADS,
    LAYERS,
    PARAMS,
    VOCAB,
    Tensors,
    load_mtp,
    make_weights,
    read_hidden,
    run_meta,
    write_checkpoint,
    write_shards,
)


@pytest.mark.parametrize("layout", ["consolidated.pth", "consolidated.00.pth", "shards"])
def test_next_token_path_agrees_with_metas_forward(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor, layout: str
) -> None:
    if layout == "shards":
        folder = write_shards(tmp_path, weights)
    else:
        folder = write_checkpoint(tmp_path, weights, name=layout)
    expected = run_meta(ids, weights, num_layers=LAYERS)
    torch.testing.assert_close(read_hidden(folder, ids), expected, atol=1e-5, rtol=1e-5)
    model = load_mtp(folder, with_lm_head=True)
    assert type(model) is LlamaForCausalLM
    logits = model(input_ids=ids[None]).logits[0]
    torch.testing.assert_close(logits, expected @ weights["output.weight"].T, atol=1e-5, rtol=1e-5)


def test_trunk_is_all_layers_but_the_last_and_then_the_shared_norm(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor, write: Callable[..., Path]
) -> None:
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
    torch.testing.assert_close(read_hidden(folder, ids), expected, atol=1e-5, rtol=1e-5)


def test_rope_theta_of_the_params_is_used(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor
) -> None:
    folder = write_checkpoint(tmp_path, weights, PARAMS | {"rope_theta": 500})
    expected = run_meta(ids, weights, num_layers=LAYERS, theta=500.0)
    torch.testing.assert_close(read_hidden(folder, ids), expected, atol=1e-5, rtol=1e-5)
    other = run_meta(ids, weights, num_layers=LAYERS)
    assert (expected - other).abs().max() > 0.1


def test_a_model_without_extra_heads_is_a_plain_llama(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor
) -> None:
    plain = {key: value for key, value in weights.items() if not key.startswith("extra_heads")}
    params = {k: v for k, v in PARAMS.items() if k != "n_future_tokens"} | {"n_layers": LAYERS}
    hidden = read_hidden(write_checkpoint(tmp_path, plain, params), ids)
    expected = run_meta(ids, weights, num_layers=LAYERS)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


def test_config_takes_widths_from_the_weights_and_depth_from_the_output(
    tmp_path: Path, weights: Tensors
) -> None:
    folder = write_checkpoint(tmp_path, weights)
    settings = BackboneSettings(name="mtp", path=str(folder))
    config = LlamaMtp().read_config(folder, settings)
    trunk = LlamaMtp().read_config(folder, replace(settings, mtp_output="trunk"))
    assert (config.num_hidden_layers, trunk.num_hidden_layers) == (LAYERS, LAYERS - 1)
    assert (config.hidden_size, config.intermediate_size, config.vocab_size) == (DIM, FFN, VOCAB)
    assert (config.num_attention_heads, config.num_key_value_heads) == (HEADS, KV_HEADS)


def test_only_a_folder_with_params_and_without_config_is_llama_mtp(
    tmp_path: Path, weights: Tensors
) -> None:
    assert not LlamaMtp().claims(tmp_path / "missing")
    assert not LlamaMtp().claims(tmp_path)
    write_checkpoint(tmp_path, weights)
    assert LlamaMtp().claims(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not LlamaMtp().claims(tmp_path)


def test_every_parameter_has_the_asked_dtype_and_rope_stays_exact(
    tmp_path: Path, weights: Tensors
) -> None:
    folder = write_checkpoint(tmp_path, weights)
    model = load_mtp(folder, "trunk", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.dtype == torch.bfloat16
    width = DIM // HEADS
    expected = 10000.0 ** (-torch.arange(0, width, 2).double() / width)
    for buffer in model.buffers():
        assert buffer.dtype == torch.float32
        torch.testing.assert_close(buffer.double(), expected, atol=1e-7, rtol=1e-6)


def test_nothing_stays_on_the_meta_device(tmp_path: Path, weights: Tensors) -> None:
    model = load_mtp(write_checkpoint(tmp_path, weights), with_lm_head=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize(
    ("output", "params", "is_right"),
    [
        ("next_token", {"n_layers": 5, "n_future_tokens": 2}, True),
        ("trunk", {"n_layers": 5, "n_future_tokens": 2}, True),
        ("next_token", {"n_layers": 4, "n_future_tokens": 2}, False),
        ("trunk", {"n_layers": 6, "n_future_tokens": 2}, False),
    ],
)
def test_layers_in_the_config_are_counted_as_params_json_counts_them(
    tmp_path: Path, weights: Tensors, output: Output, params: dict[str, int], is_right: bool
) -> None:
    settings = BackboneSettings(
        name="mtp", path="mtp", mtp_output=output, params=BackboneParams(**params)
    )
    config = LlamaMtp().read_config(write_checkpoint(tmp_path, weights), settings)
    found = LlamaMtp().layer_counts(config, settings)
    assert (found == {"n_layers": params["n_layers"]}) == is_right
