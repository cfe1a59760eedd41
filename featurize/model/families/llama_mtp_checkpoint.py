"""The files of a llama-MTP checkpoint: the numbers in `params.json` and the named tensors.

Opening a checkpoint reads names and shapes only. The files are memory-mapped, so the bytes of a
tensor are read from disk when they are used.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from featurize.errors import CriticError
from featurize.model.families.family import first_line

# Defaults of Meta's own code for numbers that params.json omits.
_ROPE_THETA = 10000.0
_NORM_EPS = 1e-5
_MULTIPLE_OF = 256


@dataclass(frozen=True, kw_only=True, slots=True)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The tensors of a checkpoint by Meta's names: shapes at once, values on demand."""

    origin: Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]

    @property
    def num_layers(self) -> int:
        """Number of `layers`: the blocks of the trunk and the one of the next-token head."""
        return _count_numbered("layers", self.shapes)

    @property
    def num_extra_heads(self) -> int:
        """Number of heads for later tokens; zero if they were stripped."""
        return _count_numbered("extra_heads", self.shapes)

    def matrix_shape(self, key: str) -> tuple[int, int]:
        """Return [rows, columns] of a matrix; raise CriticError if it is missing or no matrix."""
        if key not in self.shapes:
            raise CriticError(f"{self.origin}: missing key {key!r}; is the checkpoint complete?")
        shape = self.shapes[key]
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


def open_weights(path: Path, files: ExitStack) -> Weights:
    """Open the weights in the folder `path`; shards stay open as long as `files`."""
    pickled = sorted(path.glob("consolidated*.pth"))
    shards = sorted(path.glob("*.safetensors"))
    if len(pickled) + bool(shards) != 1:
        names = ", ".join(file.name for file in pickled + shards) or "none"
        raise CriticError(
            f"{path}: expected one consolidated.pth or *.safetensors shards, found {names}; "
            "keep one set of weights (model-parallel .pth files must be merged first)"
        )
    return _open_pickled(pickled[0]) if pickled else _open_shards(path, shards, files)


def _open_pickled(file: Path) -> Weights:
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
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CriticError(f"{file}: {key!r} is a {type(value).__name__}, expected a tensor")
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return Weights(origin=file, shapes=shapes, read=tensors.__getitem__)


def _open_shards(path: Path, shards: list[Path], files: ExitStack) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {}
    owners: dict[str, Any] = {}
    for file in shards:
        try:
            shard = files.enter_context(safe_open(file, framework="pt"))
        except SafetensorError as error:
            raise CriticError(f"{file}: a damaged safetensors file ({error})") from error
        for key in shard.keys():  # noqa: SIM118 -- a shard is not a dict
            if key in owners:
                raise CriticError(f"{file}: {key!r} is also in another shard; keep one of them")
            owners[key] = shard
            shapes[key] = tuple(shard.get_slice(key).get_shape())
    origin = shards[0] if len(shards) == 1 else path
    return Weights(origin=origin, shapes=shapes, read=lambda key: owners[key].get_tensor(key))


def _count_numbered(prefix: str, keys: Iterable[str]) -> int:
    """Return one more than the highest N in keys `<prefix>.N.…`, zero without such a key."""
    numbers = (re.match(rf"{prefix}\.(\d+)\.", key) for key in keys)
    return max((int(number[1]) + 1 for number in numbers if number), default=0)
