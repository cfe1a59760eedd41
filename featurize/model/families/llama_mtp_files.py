"""The files of a llama-MTP checkpoint: the numbers in `params.json`, the tensors, the tokenizer.

The tensors are memory-mapped: opening them reads names and shapes, and the bytes of a tensor are
read from disk when they are used.
"""

import json
import pickle
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import normalizers
from torch import Tensor
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from featurize.errors import CriticError
from featurize.model.families.family import first_line

# Defaults of Meta's own code for numbers that params.json omits.
_ROPE_THETA = 10000.0
_NORM_EPS = 1e-5
_MULTIPLE_OF = 256

# Indentation, leading spaces, special tokens as text, bytes outside the vocabulary, digits.
_PROBE = "  def ü(x):\n\treturn '<s></s>日\ufb01' # 1234  "


@dataclass(frozen=True, kw_only=True)
class Params:
    """The numbers in `params.json`; None for those it omits and the weights decide."""

    file: Path
    dim: int
    n_layers: int
    n_heads: int
    n_future_tokens: int
    n_kv_heads: int | None
    vocab_size: int | None
    multiple_of: int | None
    ffn_dim_multiplier: float | None
    rope_theta: float
    norm_eps: float

    @property
    def ffn_width(self) -> int | None:
        """Width by Meta's formula: two thirds of 4 * dim, scaled, rounded up to a multiple."""
        if self.multiple_of is None and self.ffn_dim_multiplier is None:
            return None
        multiple = self.multiple_of or _MULTIPLE_OF
        width = int((self.ffn_dim_multiplier or 1.0) * int(8 * self.dim / 3))
        return -(-width // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of a checkpoint by Meta's names, views of its files."""

    origin: Path
    tensors: dict[str, Tensor]

    def count(self, prefix: str) -> int:
        """Return one more than the highest N of the tensors `<prefix>.N.…`, zero without any."""
        numbers = (re.match(rf"{prefix}\.(\d+)\.", key) for key in self.tensors)
        return max((int(number[1]) + 1 for number in numbers if number), default=0)

    def get(self, key: str) -> Tensor:
        """Return a tensor.

        Raises:
            CriticError: it is missing.
        """
        if key not in self.tensors:
            raise CriticError(f"{self.origin}: missing key {key!r}; is the checkpoint complete?")
        return self.tensors[key]

    def matrix_shape(self, key: str) -> tuple[int, int]:
        """Return [rows, columns] of a matrix; raise CriticError if it is missing or no matrix."""
        shape = self.get(key).shape
        if len(shape) != 2:
            raise CriticError(f"{self.origin}: {key!r} is {list(shape)}, expected a matrix")
        return shape[0], shape[1]


def read_params(path: Path) -> Params:
    """Read and check `params.json` of the folder `path`."""
    file = path / "params.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CriticError(f"{file}: no such file; expected a llama-MTP folder") from None
    except ValueError as error:
        raise CriticError(f"{file}: not JSON ({first_line(error)})") from error
    if not isinstance(raw, dict):
        raise CriticError(f"{file}: expected a JSON object, found {type(raw).__name__}")
    if raw.get("use_scaled_rope"):
        raise CriticError(f"{file}: use_scaled_rope (Llama 3.1) is not supported")
    integer, real = partial(_read_number, file, raw, int), partial(_read_number, file, raw, float)
    # Meta writes vocab_size -1 for the size of the tokenizer.
    vocab_size = None if raw.get("vocab_size") == -1 else integer("vocab_size", None)
    return Params(
        file=file,
        dim=integer("dim"),
        n_layers=integer("n_layers"),
        n_heads=integer("n_heads"),
        n_future_tokens=integer("n_future_tokens", 1),
        n_kv_heads=integer("n_kv_heads", None),
        vocab_size=vocab_size,
        multiple_of=integer("multiple_of", None),
        ffn_dim_multiplier=real("ffn_dim_multiplier", None),
        rope_theta=real("rope_theta", _ROPE_THETA),
        norm_eps=real("norm_eps", _NORM_EPS),
    )


def _read_number(
    file: Path, raw: dict[str, Any], kind: type[int] | type[float], name: str, default: Any = ...
) -> Any:
    value = raw.get(name)
    if value is None and default is not ...:
        return default
    accepted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted) or not value > 0:
        raise CriticError(f"{file}: {name} is {value!r}, expected a positive {kind.__name__}")
    return value


def open_weights(path: Path) -> Weights:
    """Open the weights in the folder `path`.

    Raises:
        CriticError: there is not one set of them, or a file is damaged or holds something else.
    """
    pickled = sorted(path.glob("consolidated*.pth"))
    shards = sorted(path.glob("*.safetensors"))
    if len(pickled) + bool(shards) != 1:
        names = ", ".join(file.name for file in pickled + shards) or "none"
        raise CriticError(
            f"{path}: expected one consolidated.pth or *.safetensors shards, found {names}; "
            "keep one set of weights (model-parallel .pth files must be merged first)"
        )
    if pickled:
        return Weights(origin=pickled[0], tensors=_open_pickled(pickled[0]))
    origin = shards[0] if len(shards) == 1 else path
    return Weights(origin=origin, tensors=_open_shards(shards))


def _open_pickled(file: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:  # weights_only refused it: nothing was unpickled
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise CriticError(
            f"{file}: holds objects that are not tensors{what}, refused because unpickling them "
            "would run code; save a plain dict of tensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CriticError(
            f"{file}: not a torch.save file in the zip format, or truncated ({first_line(error)})"
        ) from error
    if not isinstance(tensors, dict):
        raise CriticError(f"{file}: expected a dict of tensors, found {type(tensors).__name__}")
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CriticError(f"{file}: {key!r} is a {type(value).__name__}, expected a tensor")
    return tensors


def _open_shards(shards: list[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in shards:
        try:
            found = load_file(file)
        except SafetensorError as error:
            raise CriticError(f"{file}: a damaged safetensors file ({error})") from error
        if twice := sorted(found.keys() & tensors.keys()):
            raise CriticError(f"{file}: {twice[0]!r} is also in another shard; keep one of them")
        tensors |= found
    return tensors


def load_llama_mtp_tokenizer(folder: Path, tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that yields the same ids as SentencePiece itself.

    Args:
        folder: the checkpoint, whose embedding table must have a row for every token.
        tokenizer_folder: where `tokenizer.model` is, or its parent folder: Meta publishes one file
            for several checkpoints.

    Raises:
        CriticError: there is no such file, or it does not fit the checkpoint.
    """
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2  # needs protobuf
    except ImportError as error:
        raise CriticError(
            f"{folder}: reading tokenizer.model needs the packages sentencepiece and protobuf; "
            "pip install sentencepiece protobuf"
        ) from error
    file = _find_tokenizer(tokenizer_folder)
    try:
        reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise CriticError(f"{file}: not a SentencePiece model ({first_line(error)})") from error
    _check_embeddings(folder, file, reference.vocab_size())
    tokenizer = _to_fast_tokenizer(file)
    messages: Any = sentencepiece_model_pb2  # generated at import: mypy sees nothing in it
    trainer = messages.ModelProto.FromString(file.read_bytes()).trainer_spec
    ids = tokenizer.encode(_PROBE, add_special_tokens=False)
    if trainer.model_type != trainer.BPE or ids != reference.encode(_PROBE):
        raise CriticError(
            f"{file}: not a Llama 2 tokenizer (BPE with byte fallback, identity normalisation); "
            "give the tokenizer of the checkpoint"
        )
    return tokenizer


def _find_tokenizer(folder: Path) -> Path:
    for file in (folder / "tokenizer.model", folder.resolve().parent / "tokenizer.model"):
        if file.is_file():
            return file
    raise CriticError(
        f"{folder}: no tokenizer.model in the folder or its parent; set"
        " models.policy.tokenizer_path to its path"
    )


def _check_embeddings(folder: Path, file: Path, num_pieces: int) -> None:
    weights = open_weights(folder)
    num_rows, _ = weights.matrix_shape("tok_embeddings.weight")
    if num_pieces > num_rows:
        raise CriticError(
            f"{file}: {num_pieces} pieces, but tok_embeddings.weight in {weights.origin} has "
            f"{num_rows} rows; give the tokenizer of the checkpoint"
        )


def _to_fast_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    tokenizer_class: Any = LlamaTokenizer  # its methods have no types
    vocabulary = tokenizer_class.convert_to_native_format(vocab_file=str(file))
    llama = tokenizer_class(**vocabulary, add_bos_token=True)
    backend = llama.backend_tokenizer
    # NOTE: LlamaTokenizer omits SentencePiece's leading space if the text starts with a space, so
    # indented code would lose one. These two steps are what SentencePiece does. A plain fast
    # tokenizer keeps them through save_pretrained; LlamaTokenizer would rebuild its own.
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast_class: Any = PreTrainedTokenizerFast
    specials = {name: getattr(llama, name) for name in ("bos_token", "eos_token", "unk_token")}
    tokenizer: PreTrainedTokenizerBase = fast_class(
        tokenizer_object=backend,
        **specials,
        # "<s>" within a text is plain text, as for Meta's tokenizer, not the start of a sequence.
        split_special_tokens=True,
    )
    return tokenizer
