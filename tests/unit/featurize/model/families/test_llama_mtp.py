"""A llama-MTP checkpoint computes what Meta's forward computes, or is refused."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from featurize.model.families.llama_mtp import LlamaMtp, Output
from featurize.model.families.llama_mtp_files import Weights
from featurize.settings import BackboneParams, BackboneSettings
from tests.support.llama_mtp_files import (
    DIM,
    FFN,
    HEADS,
    KV_HEADS,
    LAYERS,
    PARAMS,
    VOCAB,
    W1,
    WK,
    Tensors,
    is_mapped_from,
    load_error,
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_uncast_weights_stay_views_of_the_file(
    tmp_path: Path, weights: Tensors, write: Callable[..., Path]
) -> None:
    folder = write(tmp_path, weights)
    files = [*folder.glob("*.pth"), *folder.glob("*.safetensors")]
    model = load_mtp(folder, with_lm_head=True)
    for name, parameter in model.named_parameters():
        is_mapped = any(is_mapped_from(parameter, file) for file in files)
        assert is_mapped == (not re.search(r"[qk]_proj", name)), name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_a_cast_model_keeps_nothing_of_the_source(
    tmp_path: Path, weights: Tensors, write: Callable[..., Path]
) -> None:
    folder = write(tmp_path, weights)
    model = load_mtp(folder, "trunk", dtype=torch.bfloat16)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert str(folder.resolve()) not in Path("/proc/self/maps").read_text()


def test_unused_tensors_are_never_read(
    tmp_path: Path, weights: Tensors, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, weights)
    read: list[str] = []

    def get_and_record(opened: Weights, key: str) -> torch.Tensor:
        read.append(key)
        return opened.tensors[key]

    monkeypatch.setattr(Weights, "get", get_and_record)
    load_mtp(folder, "trunk")
    unused = {key for key in weights if re.match(r"extra_heads|layers\.3|output", key)}
    assert set(read) == weights.keys() - unused


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"dim": 32}, "dim is 32"),
        ({"n_layers": 6}, "n_layers - n_future_tokens + 1 is 5"),
        ({"n_layers": 6, "n_future_tokens": 3}, "n_future_tokens - 1 is 2"),
        ({"n_kv_heads": 4}, "n_kv_heads is 4"),
        ({"vocab_size": 97}, "vocab_size is 97"),
        ({"multiple_of": 256}, "is 256"),
        ({"ffn_dim_multiplier": 2.0}, "is 352"),
    ],
)
def test_params_that_contradict_the_weights_are_refused(
    tmp_path: Path, weights: Tensors, change: dict[str, Any], claim: str
) -> None:
    message = load_error(write_checkpoint(tmp_path, weights, PARAMS | change))
    assert claim in message
    assert "params.json" in message
    assert "consolidated.pth has" in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n_heads": 6}, "n_heads 6 does not divide dim 64"),
        ({"n_heads": 64}, "n_heads 64 does not divide dim 64"),
        ({"n_heads": 2, "n_kv_heads": 3}, "n_kv_heads is 3"),
        ({"n_heads": 1, "n_kv_heads": 1}, "wk.weight' has 32 rows"),
    ],
)
def test_heads_that_do_not_fit_the_weights_are_refused(
    tmp_path: Path, weights: Tensors, change: dict[str, Any], complaint: str
) -> None:
    assert complaint in load_error(write_checkpoint(tmp_path, weights, PARAMS | change))


@pytest.mark.parametrize(
    "key", ["layers.2.attention.wo.weight", "norm.weight", "tok_embeddings.weight", "output.weight"]
)
def test_a_missing_key_is_named(
    tmp_path: Path, weights: Tensors, write: Callable[..., Path], key: str
) -> None:
    del weights[key]
    assert f"missing key {key!r}" in load_error(write(tmp_path, weights))


def test_a_key_that_is_not_needed_may_be_missing(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor
) -> None:
    del weights["output.weight"]
    hidden = read_hidden(write_checkpoint(tmp_path, weights), ids)
    assert hidden.shape == (len(ids), DIM)


def test_an_unexpected_key_is_named(tmp_path: Path, weights: Tensors) -> None:
    weights["layers.1.attention.wq.bias"] = torch.zeros(DIM)
    message = load_error(write_checkpoint(tmp_path, weights))
    assert "unexpected key 'layers.1.attention.wq.bias'" in message


def test_the_rope_cache_of_older_checkpoints_is_ignored(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor
) -> None:
    folder = write_checkpoint(tmp_path, weights | {"rope.freqs": torch.ones(8)})
    expected = run_meta(ids, weights, num_layers=LAYERS)
    hidden = read_hidden(folder, ids)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key", ["layers.2.attention.wv.weight", "norm.weight", "output.weight"])
def test_a_wrong_shape_is_named(tmp_path: Path, weights: Tensors, key: str) -> None:
    shape = list(weights[key].shape)
    weights[key] = weights[key][1:].clone()
    message = load_error(write_checkpoint(tmp_path, weights))
    assert f"{key!r} is {[shape[0] - 1, *shape[1:]]}, expected {shape}" in message


def test_a_vector_in_place_of_a_matrix_is_named(tmp_path: Path, weights: Tensors) -> None:
    weights[W1] = torch.ones(FFN)
    assert f"{W1!r} is [192], expected a matrix" in load_error(write_checkpoint(tmp_path, weights))


def test_quantised_integers_are_refused(tmp_path: Path, weights: Tensors) -> None:
    weights[WK] = weights[WK].to(torch.int8)
    message = load_error(write_checkpoint(tmp_path, weights))
    assert f"{WK!r} is torch.int8, expected floats" in message


def test_the_trunk_has_no_likelihood(tmp_path: Path, weights: Tensors) -> None:
    message = load_error(write_checkpoint(tmp_path, weights), "trunk")
    assert "set models.policy.mtp_output to next_token" in message
