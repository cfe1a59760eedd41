"""Meta's multi-token-prediction LLaMA checkpoints, read as plain transformers LLaMA models.

Such a folder holds `params.json` and `consolidated.pth` (or safetensors shards). Its layers are the
trunk's blocks and, last, the block of the next-token head; `extra_heads` predict later tokens and
are left on disk. All heads share the trunk, the final norm and the output matrix, so that trunk +
last block is a plain LLaMA, and so is the trunk alone.
"""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import torch
from tokenizers import normalizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    LlamaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from featurize.errors import CriticError
from featurize.model.families.llama_mtp_checkpoint import (
    Params,
    Weights,
    first_line,
    open_weights,
    read_params,
)
from featurize.model.sharing import WHOLE, Sharing, cut_config, distribute, place

Output = Literal["next_token", "trunk"]

_CONTEXT_LENGTH = 4096  # only a hint for users of the config: RoPE is computed for any position

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
# `rope.freqs` is a cache that older Meta checkpoints carry; transformers computes its own.
_IGNORED = re.compile(r"extra_heads\.|rope\.freqs$")

# Indentation, leading spaces, special tokens as text, bytes outside the vocabulary, digits.
_TOKENIZER_PROBE = "  def ü(x):\n\treturn '<s></s>日\ufb01' # 1234  "


def is_llama_mtp(path: Path) -> bool:
    """Whether `path` is a folder in Meta's layout rather than in transformers' own."""
    return (path / "params.json").is_file() and not (path / "config.json").exists()


def read_llama_config(path: Path, *, output: Output = "next_token") -> LlamaConfig:
    """The transformers config of the next-token path (all layers) or of the trunk (all but one)."""
    with ExitStack() as files:
        return _build_config(read_params(path), open_weights(path, files), output)


def load_llama_mtp(
    path: Path,
    *,
    output: Output,
    dtype: torch.dtype,
    with_lm_head: bool,
    num_layers: int | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 -- a constant
    sharing: Sharing = WHOLE,
) -> PreTrainedModel:
    """The frozen model: LlamaForCausalLM with the output matrix, else LlamaModel.

    The file is memory-mapped: on the CPU a tensor that needs neither a cast nor a permutation stays
    a view of the file, any other exists once. The final norm is applied in both outputs. Of
    `num_layers` only the first are read; of a shared backbone, only this rank's part is kept.
    """
    if output == "trunk" and with_lm_head:
        raise CriticError(
            f"{path}: the output matrix reads the next-token block, not the trunk; "
            "ask for output='next_token' to get likelihoods"
        )
    with ExitStack() as files:
        weights = open_weights(path, files)
        config = _build_config(read_params(path), weights, output)
        config.dtype = dtype
        if num_layers is not None:
            config = cast(LlamaConfig, cut_config(config, num_layers))
        with torch.device("meta"):
            model: PreTrainedModel = (
                LlamaForCausalLM(config) if with_lm_head else LlamaModel(config)
            )
        _refuse_unexpected_keys(weights)
        if sharing.is_shared:
            model = distribute(model, sharing, device)
        state = {
            name: place(
                _convert(weights, _to_meta_key(name), parameter, config, dtype), parameter, device
            )
            for name, parameter in model.named_parameters()
        }
    model.load_state_dict(state, assign=True)
    # The inverse frequencies are no part of a state dict: on the meta device they have no values.
    model.base_model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    model.requires_grad_(False)
    model.train(False)
    return model


def load_llama_mtp_tokenizer(
    path: Path, *, tokenizer_path: Path | None = None
) -> PreTrainedTokenizerBase:
    """The checkpoint's SentencePiece tokenizer as a fast one that yields the very same ids.

    Looked for in the folder, then beside it (Meta publishes one file for several folders).
    """
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2  # needs protobuf
    except ImportError as error:
        raise CriticError(
            f"{path}: reading tokenizer.model needs the packages sentencepiece and protobuf; "
            "pip install sentencepiece protobuf"
        ) from error
    file = tokenizer_path or _find_tokenizer(path)
    if not file.is_file() or file.suffix != ".model":
        raise CriticError(f"{file}: not a SentencePiece tokenizer.model file")
    try:
        reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise CriticError(f"{file}: not a SentencePiece model ({first_line(error)})") from error
    with ExitStack() as files:
        weights = open_weights(path, files)
        num_rows, _ = weights.matrix_shape("tok_embeddings.weight")
    if reference.vocab_size() > num_rows:
        raise CriticError(
            f"{file}: {reference.vocab_size()} pieces, but tok_embeddings.weight in "
            f"{weights.origin} has {num_rows} rows; give the checkpoint's own tokenizer"
        )
    tokenizer = _to_fast_tokenizer(file)
    messages: Any = sentencepiece_model_pb2  # generated at import, so that mypy sees nothing in it
    trainer = messages.ModelProto.FromString(file.read_bytes()).trainer_spec
    ids = tokenizer.encode(_TOKENIZER_PROBE, add_special_tokens=False)
    if trainer.model_type != trainer.BPE or ids != reference.encode(_TOKENIZER_PROBE):
        raise CriticError(
            f"{file}: not a tokenizer of Llama 2's kind (BPE with byte fallback, identity "
            "normalisation); give the checkpoint's own tokenizer"
        )
    return tokenizer


def _build_config(params: Params, weights: Weights, output: Output) -> LlamaConfig:
    num_embeddings, dim = weights.matrix_shape("tok_embeddings.weight")
    ffn_width, _ = weights.matrix_shape("layers.0.feed_forward.w1.weight")
    key_rows, _ = weights.matrix_shape("layers.0.attention.wk.weight")
    num_extra_heads = weights.num_extra_heads or None  # stripping them is no contradiction
    _refuse_contradiction(params, weights, "dim", params.dim, dim)
    head_dim, remainder = divmod(dim, params.n_heads)
    if remainder or head_dim % 2:
        raise CriticError(
            f"{params.file}: n_heads {params.n_heads} does not cut dim {dim} into even heads"
        )
    num_kv_heads, remainder = divmod(key_rows, head_dim)
    if remainder or not num_kv_heads or params.n_heads % num_kv_heads:
        raise CriticError(
            f"{weights.origin}: 'layers.0.attention.wk.weight' has {key_rows} rows, which "
            f"{params.n_heads} heads of width {head_dim} (n_heads in params.json) cannot share"
        )
    num_layers = params.n_layers - params.n_future_tokens + 1
    for name, claimed, found in (
        ("n_layers - n_future_tokens + 1", num_layers, weights.num_layers),
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
            "are the two of one checkpoint?"
        )


def _refuse_unexpected_keys(weights: Weights) -> None:
    known = set(_TOP_LEVEL.values())
    for layer in range(weights.num_layers):
        known.update(f"layers.{layer}.{name}" for name in _IN_LAYER.values())
    for key in sorted(weights.shapes.keys() - known):
        if not _IGNORED.match(key):
            raise CriticError(
                f"{weights.origin}: unexpected key {key!r}; not a llama-MTP checkpoint?"
            )


def _to_meta_key(name: str) -> str:
    """Meta's name of a transformers parameter."""
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
    """The tensor `key` as transformers wants it: shape checked, cast, RoPE layout changed."""
    if key not in weights.shapes:
        raise CriticError(f"{weights.origin}: missing key {key!r}; is the checkpoint whole?")
    if weights.shapes[key] != tuple(target.shape):
        raise CriticError(
            f"{weights.origin}: {key!r} is {list(weights.shapes[key])}, "
            f"expected {list(target.shape)}"
        )
    tensor = weights.read(key)
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


def _find_tokenizer(path: Path) -> Path:
    for file in (path / "tokenizer.model", path.resolve().parent / "tokenizer.model"):
        if file.is_file():
            return file
    raise CriticError(
        f"{path}: no tokenizer.model in the folder or beside it; give its path as tokenizer_path"
    )


def _to_fast_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    tokenizer_class: Any = LlamaTokenizer  # its methods carry no types
    vocabulary = tokenizer_class.convert_to_native_format(vocab_file=str(file))
    llama = tokenizer_class(**vocabulary, add_bos_token=True)
    backend = llama.backend_tokenizer
    # NOTE: LlamaTokenizer leaves out SentencePiece's leading space where the text starts with one,
    # so that indented code would lose a space. These two steps are what SentencePiece does; a
    # plain fast tokenizer keeps them through save_pretrained, LlamaTokenizer would rebuild them.
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast_class: Any = PreTrainedTokenizerFast
    specials = {name: getattr(llama, name) for name in ("bos_token", "eos_token", "unk_token")}
    tokenizer: PreTrainedTokenizerBase = fast_class(
        tokenizer_object=backend,
        **specials,
        # "<s>" written in a text is text, as in Meta's tokenizer, and not the start of a sequence.
        split_special_tokens=True,
    )
    return tokenizer
