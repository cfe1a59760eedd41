"""Meta's multi-token-prediction LLaMA checkpoints, read as plain transformers LLaMA models.

Such a folder holds `params.json` and `consolidated.pth` (or safetensors shards). Its layers are the
blocks of the trunk followed by the block of the next-token head. Its `extra_heads` predict later
tokens and are not read. All heads share the trunk, the final norm and the output matrix, so the
trunk with the last block is a plain LLaMA, and so is the trunk alone.
"""

import re
from pathlib import Path
from typing import Literal, cast

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from featurize.errors import CriticError
from featurize.model.families.family import Family, LoadOptions, draw_model
from featurize.model.families.llama_mtp_files import (
    Params,
    Weights,
    load_llama_mtp_tokenizer,
    open_weights,
    read_params,
)
from featurize.model.sharing import cut_config, distribute, place
from featurize.settings import BackboneSettings

Output = Literal["next_token", "trunk"]

_CONTEXT_LENGTH = 4096  # a hint for readers of the config: RoPE is computed for any position

_TOP_LEVEL = {
    "embed_tokens.weight": "tok_embeddings.weight",
    "norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.down_proj.weight": "feed_forward.w2.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight",
    "input_layernorm.weight": "attention_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
# `rope.freqs` is a cache in older checkpoints of Meta; transformers computes its own.
_IGNORED = re.compile(r"extra_heads\.|rope\.freqs$")


class LlamaMtp(Family):
    """A folder in Meta's layout; `models.policy.mtp_output` chooses the path through its blocks."""

    def claims(self, path: Path) -> bool:
        """Accept a folder with `params.json` and without transformers' `config.json`."""
        return (path / "params.json").is_file() and not (path / "config.json").exists()

    def read_config(self, folder: Path, settings: BackboneSettings) -> LlamaConfig:
        """Make a config of the next-token path (all layers) or the trunk (all but the last)."""
        return _build_config(read_params(folder), open_weights(folder), settings.mtp_output)

    def load_tokenizer(
        self, folder: Path, tokenizer_folder: Path, settings: BackboneSettings
    ) -> PreTrainedTokenizerBase:
        """Load `tokenizer.model`."""
        return load_llama_mtp_tokenizer(folder, tokenizer_folder)

    def load_model(
        self, folder: Path, settings: BackboneSettings, options: LoadOptions
    ) -> PreTrainedModel:
        """Load a frozen LlamaForCausalLM, or a LlamaModel if the output matrix is not asked for.

        The file is memory-mapped. On the CPU a tensor that needs neither a cast nor a permutation
        remains a view of the file; any other exists once. The final norm is applied in both
        outputs. Layers above `num_layers` are not read, and of a shared backbone only this rank's
        part is kept.

        Raises:
            CriticError: the checkpoint is damaged or contradicts `params.json`, or the settings ask
                for something it does not have.
        """
        _refuse_impossible(settings, options)
        config = self.read_config(folder, settings)
        if settings.weights == "random":
            return draw_model(folder, config, settings, options)
        config.dtype = options.dtype
        config = cast(LlamaConfig, cut_config(config, options.num_layers))
        with torch.device("meta"):
            model: PreTrainedModel = (
                LlamaForCausalLM(config) if options.with_lm_head else LlamaModel(config)
            )
        weights = open_weights(folder)
        _refuse_unexpected_keys(weights)
        if options.sharing.is_shared:
            model = distribute(model, options.sharing, options.device)
        state = {}
        for name, parameter in model.named_parameters():
            tensor = _convert(weights, _to_meta_key(name), parameter, config, options.dtype)
            state[name] = place(tensor, parameter, options.device)
        model.load_state_dict(state, assign=True)
        # The inverse frequencies are not in a state dict: on the meta device they have no values.
        model.base_model.rotary_emb = LlamaRotaryEmbedding(config).to(options.device)
        return model

    def output_of(self, settings: BackboneSettings) -> str | None:
        """Return `next_token` or `trunk`."""
        return settings.mtp_output

    def layer_counts(self, config: PreTrainedConfig, settings: BackboneSettings) -> dict[str, int]:
        """Return the layers as params.json counts them: with the blocks of all heads."""
        heads = settings.params and settings.params.n_future_tokens
        if not heads:
            return {}  # heads may have been stripped from the checkpoint
        beside = heads if settings.mtp_output == "trunk" else heads - 1
        return {"n_layers": config.num_hidden_layers + beside}


def _refuse_impossible(settings: BackboneSettings, options: LoadOptions) -> None:
    if settings.quantization:
        raise CriticError(
            "models.policy.quantization is for transformers' own formats; a llama-MTP checkpoint is"
            " read as it is: set it to null"
        )
    if settings.mtp_output == "trunk" and options.with_lm_head:
        raise CriticError(
            "the trunk predicts no next token, so there is no likelihood; set"
            " models.policy.mtp_output to next_token or featurize.likelihood to false"
        )


def _build_config(params: Params, weights: Weights, output: Output) -> LlamaConfig:
    num_embeddings, dim = weights.matrix_shape("tok_embeddings.weight")
    ffn_width, _ = weights.matrix_shape("layers.0.feed_forward.w1.weight")
    key_rows, _ = weights.matrix_shape("layers.0.attention.wk.weight")
    _refuse_contradiction(params, weights, "dim", params.dim, dim)
    head_dim, remainder = divmod(dim, params.n_heads)
    if remainder or head_dim % 2:
        raise CriticError(
            f"{params.file}: n_heads {params.n_heads} does not divide dim {dim} into heads of an"
            " even width"
        )
    num_kv_heads, remainder = divmod(key_rows, head_dim)
    if remainder or not num_kv_heads or params.n_heads % num_kv_heads:
        raise CriticError(
            f"{weights.origin}: 'layers.0.attention.wk.weight' has {key_rows} rows, which "
            f"{params.n_heads} heads of width {head_dim} (n_heads in params.json) cannot share"
        )
    num_layers = params.n_layers - params.n_future_tokens + 1
    num_extra_heads = weights.count("extra_heads") or None  # they may have been stripped
    for name, claimed, found in (
        ("n_layers - n_future_tokens + 1", num_layers, weights.count("layers")),
        ("n_future_tokens - 1", params.n_future_tokens - 1, num_extra_heads),
        ("n_kv_heads", params.n_kv_heads, num_kv_heads),
        ("vocab_size", params.vocab_size, num_embeddings),
        ("FFN width by multiple_of and ffn_dim_multiplier", params.ffn_width, ffn_width),
    ):
        _refuse_contradiction(params, weights, name, claimed, found)
    return LlamaConfig(
        vocab_size=num_embeddings,
        hidden_size=dim,
        intermediate_size=ffn_width,
        num_hidden_layers=num_layers - 1 if output == "trunk" else num_layers,
        num_attention_heads=params.n_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=_CONTEXT_LENGTH,
        rms_norm_eps=params.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
    )


def _refuse_contradiction(
    params: Params, weights: Weights, name: str, claimed: int | None, found: int | None
) -> None:
    if claimed is not None and found is not None and claimed != found:
        raise CriticError(
            f"{params.file}: {name} is {claimed}, but {weights.origin} has {found}; "
            "do both belong to one checkpoint?"
        )


def _refuse_unexpected_keys(weights: Weights) -> None:
    known = set(_TOP_LEVEL.values())
    for layer in range(weights.count("layers")):
        known.update(f"layers.{layer}.{name}" for name in _IN_LAYER.values())
    for key in sorted(weights.tensors.keys() - known):
        if not _IGNORED.match(key):
            raise CriticError(
                f"{weights.origin}: unexpected key {key!r}; not a llama-MTP checkpoint?"
            )


def _to_meta_key(name: str) -> str:
    """Translate the name of a transformers parameter into Meta's."""
    name = name.removeprefix("model.")
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    _, layer, rest = name.split(".", 2)
    return f"layers.{layer}.{_IN_LAYER[rest]}"


def _convert(
    weights: Weights,
    key: str,
    target: torch.Tensor,
    config: LlamaConfig,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Read a tensor, check its shape, cast it and change its RoPE layout to transformers'."""
    tensor = weights.get(key)
    if tensor.shape != target.shape:
        raise CriticError(
            f"{weights.origin}: {key!r} is {list(tensor.shape)}, expected {list(target.shape)}"
        )
    if not tensor.is_floating_point():
        raise CriticError(f"{weights.origin}: {key!r} is {tensor.dtype}, expected floats")
    tensor = tensor.to(dtype)
    num_heads = config.num_attention_heads
    if key.endswith(".attention.wq.weight"):
        return _to_half_split_rope(tensor, num_heads)
    if key.endswith(".attention.wk.weight"):
        return _to_half_split_rope(tensor, config.num_key_value_heads or num_heads)
    return tensor


def _to_half_split_rope(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reorder each head's rows from Meta's RoPE pairs (2i, 2i+1) to transformers' (i, i + width/2).

    weight: [num_heads * width, dim]; the result has the same shape.
    """
    rows, dim = weight.shape
    pairs = weight.view(num_heads, rows // num_heads // 2, 2, dim)  # [heads, width/2, 2, dim]
    return pairs.transpose(1, 2).reshape(rows, dim)
