"""Small llama-MTP checkpoints, and Meta's forward as a reference implementation."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from featurize.model.families.llama_mtp import LlamaMtp, Output
from featurize.settings import BackboneSettings
from tests.support.loaded_backbones import error_of, load_options

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
    """Rotate channels (2i, 2i+1) of x [tokens, heads, width], as complex numbers, by p * f_i."""
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
    """Run Meta's forward up to and including the shared norm: [tokens, dim]."""
    x = tensors["tok_embeddings.weight"][ids]
    for layer in range(num_layers):
        x = run_block(x, tensors, f"layers.{layer}", kv_heads, theta)
    return rms_norm(x, tensors["norm.weight"])


def load_mtp(
    folder: Path,
    output: Output = "next_token",
    *,
    dtype: torch.dtype = torch.float32,
    with_lm_head: bool = False,
    **options: Any,
) -> PreTrainedModel:
    settings = BackboneSettings(name="mtp", path=str(folder), mtp_output=output, **options)
    return LlamaMtp().load_model(folder, settings, load_options(dtype, with_lm_head=with_lm_head))


def read_hidden(folder: Path, ids: torch.Tensor, output: Output = "next_token") -> torch.Tensor:
    hidden: torch.Tensor = load_mtp(folder, output)(input_ids=ids[None]).last_hidden_state[0]
    return hidden.detach()


def is_mapped_from(tensor: torch.Tensor, file: Path) -> bool:
    """Return whether the memory of the tensor is mapped from `file`."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.endswith(str(file.resolve()))
    return False


def load_error(folder: Path, output: Output = "next_token") -> str:
    return error_of(lambda: load_mtp(folder, output, with_lm_head=True))
