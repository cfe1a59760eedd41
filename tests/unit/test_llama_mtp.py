import json
import math
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, LlamaModel

from featurize.model.llama_mtp import (
    is_llama_mtp,
    load_llama_mtp,
    read_llama_config,
)
from featurize.model.llama_mtp_checkpoint import LlamaMtpError, Weights, open_weights

DIM, FFN, VOCAB, HEADS, KV_HEADS, LAYERS, EXTRA = 64, 192, 96, 4, 2, 4, 1
PARAMS: dict[str, Any] = {
    "dim": DIM,
    "n_layers": 5,
    "n_future_tokens": 2,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "vocab_size": -1,
    "multiple_of": 32,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
Tensors = dict[str, torch.Tensor]
W1, WK = "layers.0.feed_forward.w1.weight", "layers.0.attention.wk.weight"


def make_weights(*, kv_heads: int = KV_HEADS, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    kv_width = DIM // HEADS * kv_heads

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

    def norm() -> torch.Tensor:
        return 1 + 0.3 * torch.randn(DIM, generator=generator)

    tensors = {"tok_embeddings.weight": matrix(VOCAB, DIM)}
    blocks = [f"layers.{layer}" for layer in range(LAYERS)]
    for block in blocks + [f"extra_heads.{head}" for head in range(EXTRA)]:
        tensors |= {
            f"{block}.attention.wq.weight": matrix(DIM, DIM),
            f"{block}.attention.wk.weight": matrix(kv_width, DIM),
            f"{block}.attention.wv.weight": matrix(kv_width, DIM),
            f"{block}.attention.wo.weight": matrix(DIM, DIM),
            f"{block}.feed_forward.w1.weight": matrix(FFN, DIM),
            f"{block}.feed_forward.w2.weight": matrix(DIM, FFN),
            f"{block}.feed_forward.w3.weight": matrix(FFN, DIM),
            f"{block}.attention_norm.weight": norm(),
            f"{block}.ffn_norm.weight": norm(),
        }
    return tensors | {"norm.weight": norm(), "output.weight": matrix(VOCAB, DIM)}


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Any],
    params: dict[str, Any] = PARAMS,
    name: str = "consolidated.pth",
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    torch.save(dict(tensors), folder / name)
    return folder


def write_shards(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS))
    keys = list(tensors)
    for number, part in enumerate((keys[:20], keys[20:])):
        save_file({key: tensors[key] for key in part}, folder / f"model-{number}.safetensors")
    return folder


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + PARAMS["norm_eps"]) * weight


def rotate_pairs(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Channels (2i, 2i+1) of x [tokens, heads, width] are one complex number, turned by p * f_i."""
    tokens, heads, width = x.shape
    frequencies = theta ** (-torch.arange(0, width, 2).double() / width)
    angles = torch.arange(tokens).double()[:, None] * frequencies  # [tokens, width/2]
    turns = torch.polar(torch.ones_like(angles), angles)[:, None, :]
    pairs = torch.view_as_complex(x.double().reshape(tokens, heads, width // 2, 2))
    return torch.view_as_real(pairs * turns).reshape(tokens, heads, width).to(x.dtype)


def run_block(
    x: torch.Tensor, tensors: Tensors, block: str, kv_heads: int, theta: float
) -> torch.Tensor:
    def weight(name: str) -> torch.Tensor:
        return tensors[f"{block}.{name}.weight"]

    tokens, width = x.shape[0], DIM // HEADS
    h = rms_norm(x, weight("attention_norm"))
    q = rotate_pairs((h @ weight("attention.wq").T).view(tokens, HEADS, width), theta)
    k = rotate_pairs((h @ weight("attention.wk").T).view(tokens, kv_heads, width), theta)
    v = (h @ weight("attention.wv").T).view(tokens, kv_heads, width)
    k, v = (t.repeat_interleave(HEADS // kv_heads, dim=1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / width**0.5
    scores = scores + torch.full((tokens, tokens), float("-inf")).triu(1)
    mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(tokens, DIM)
    x = x + mixed @ weight("attention.wo").T
    h = rms_norm(x, weight("ffn_norm"))
    gate = h @ weight("feed_forward.w1").T
    up = h @ weight("feed_forward.w3").T
    return x + (gate * torch.sigmoid(gate) * up) @ weight("feed_forward.w2").T


def run_meta(
    ids: torch.Tensor,
    tensors: Tensors,
    *,
    num_layers: int,
    kv_heads: int = KV_HEADS,
    theta: float = PARAMS["rope_theta"],
) -> torch.Tensor:
    """Meta's forward from its definition, up to and with the shared norm: [tokens, dim]."""
    x = tensors["tok_embeddings.weight"][ids]
    for layer in range(num_layers):
        x = run_block(x, tensors, f"layers.{layer}", kv_heads, theta)
    return rms_norm(x, tensors["norm.weight"])


def read_hidden(folder: Path, ids: torch.Tensor, output: Any) -> torch.Tensor:
    model = load_llama_mtp(folder, output=output, dtype=torch.float32, with_lm_head=False)
    assert type(model) is LlamaModel
    hidden: torch.Tensor = model(input_ids=ids[None]).last_hidden_state[0]
    return hidden


def is_mapped_from(tensor: torch.Tensor, file: Path) -> bool:
    """Whether the tensor's bytes are those of `file`, seen through the page tables."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.endswith(str(file.resolve()))
    return False


def load_error(folder: Path, output: Any = "next_token", *, with_lm_head: bool = True) -> str:
    with pytest.raises(LlamaMtpError) as caught:
        load_llama_mtp(folder, output=output, dtype=torch.float32, with_lm_head=with_lm_head)
    message = str(caught.value)
    assert "\n" not in message
    return message


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("layout", ["pth", "shards"])
def test_uncast_weights_stay_views_of_the_file(
    tmp_path: Path, weights: Tensors, layout: str
) -> None:
    write = write_shards if layout == "shards" else write_checkpoint
    folder = write(tmp_path, weights)
    files = [*folder.glob("*.pth"), *folder.glob("*.safetensors")]
    model = load_llama_mtp(folder, output="next_token", dtype=torch.float32, with_lm_head=True)
    for name, parameter in model.named_parameters():
        is_mapped = any(is_mapped_from(parameter, file) for file in files)
        assert is_mapped == (not re.search(r"[qk]_proj", name)), name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("layout", ["pth", "shards"])
def test_a_cast_model_keeps_nothing_of_the_source(
    tmp_path: Path, weights: Tensors, layout: str
) -> None:
    write = write_shards if layout == "shards" else write_checkpoint
    folder = write(tmp_path, weights)
    model = load_llama_mtp(folder, output="trunk", dtype=torch.bfloat16, with_lm_head=False)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert str(folder.resolve()) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("layout", ["pth", "shards"])
def test_unused_tensors_are_never_read(
    tmp_path: Path, weights: Tensors, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_shards if layout == "shards" else write_checkpoint
    folder = write(tmp_path, weights)
    read: list[str] = []

    def open_and_listen(path: Path, files: ExitStack) -> Weights:
        opened = open_weights(path, files)

        def read_and_note(key: str) -> torch.Tensor:
            read.append(key)
            return opened.read(key)

        return replace(opened, read=read_and_note)

    monkeypatch.setattr("featurize.model.llama_mtp.open_weights", open_and_listen)
    load_llama_mtp(folder, output="trunk", dtype=torch.float32, with_lm_head=False)
    unused = {key for key in weights if re.match(r"extra_heads|layers\.3|output", key)}
    assert sorted(read) == sorted(weights.keys() - unused)


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
        ({"n_heads": 6}, "n_heads 6 does not cut dim 64"),
        ({"n_heads": 64}, "n_heads 64 does not cut dim 64"),
        ({"n_heads": 2, "n_kv_heads": 3}, "n_kv_heads is 3"),
        ({"n_heads": 1, "n_kv_heads": 1}, "wk.weight' has 32 rows"),
    ],
)
def test_heads_that_do_not_fit_the_weights_are_refused(
    tmp_path: Path, weights: Tensors, change: dict[str, Any], complaint: str
) -> None:
    assert complaint in load_error(write_checkpoint(tmp_path, weights, PARAMS | change))


@pytest.mark.parametrize("layout", ["pth", "shards"])
@pytest.mark.parametrize(
    "key", ["layers.2.attention.wo.weight", "norm.weight", "tok_embeddings.weight", "output.weight"]
)
def test_a_missing_key_is_named(tmp_path: Path, weights: Tensors, layout: str, key: str) -> None:
    del weights[key]
    write = write_shards if layout == "shards" else write_checkpoint
    assert f"missing key {key!r}" in load_error(write(tmp_path, weights))


def test_a_key_that_is_not_needed_may_be_missing(
    tmp_path: Path, weights: Tensors, ids: torch.Tensor
) -> None:
    del weights["output.weight"]
    hidden = read_hidden(write_checkpoint(tmp_path, weights), ids, "next_token")
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
    hidden = read_hidden(folder, ids, "next_token")
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
    assert "ask for output='next_token'" in message
