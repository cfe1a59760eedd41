"""Hidden states that vLLM wrote: a safetensors file a request, found by its token ids.

Source of the layout: vLLM, docs/features/speculative_decoding/extract_hidden_states.md and
vllm/distributed/kv_transfer/kv_connector/v1/example_hidden_states_connector.py.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from featurize.errors import CriticError
from featurize.io.files import digest

STATES, TOKENS = "hidden_states", "token_ids"
"""Tensors of a dump: [tokens, layers, width] and int64 [tokens]."""

_NO_PREFIX_CACHING = "run vLLM with --no-enable-prefix-caching and --no-enable-chunked-prefill"


@dataclass(frozen=True, kw_only=True)
class DumpShape:
    """What every dump must have."""

    layers: tuple[int, ...]  # ascending, as vLLM writes them
    width: int
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class Dumps:
    """All dumps of a folder, in the order of their token ids."""

    keys: Sequence[bytes]  # token ids, of which bytes compare as the numbers do
    files: Sequence[Path]
    shape: DumpShape

    @classmethod
    def open(cls, folder: Path, shape: DumpShape) -> "Dumps":
        """Read the token ids of every dump of a folder, and check the shapes of their states.

        Raises:
            CriticError: there is no dump, or one is damaged, has other layers or fewer states than
                tokens (names the file).
        """
        files = sorted(folder.rglob("*.safetensors"))
        if not files:
            raise CriticError(
                f"{folder}: has no *.safetensors; give the folder that vLLM's shared_storage_path"
                " names"
            )
        found = sorted((_read_key(file, shape), file) for file in files)
        return cls(keys=[key for key, _ in found], files=[file for _, file in found], shape=shape)

    @property
    def digest(self) -> str:
        """A digest of the token ids and the sizes of the files, wherever these are."""
        sizes = [file.stat().st_size for file in self.files]
        return digest([[key.hex() for key in self.keys], sizes])

    def find(self, ids: Sequence[int]) -> Path | None:
        """Return a dump whose tokens begin with these; what follows changes no state of theirs."""
        key = _to_key(ids)
        place = bisect_left(self.keys, key)
        is_found = place < len(self.keys) and self.keys[place].startswith(key)
        return self.files[place] if is_found else None

    def closest(self, ids: Sequence[int]) -> tuple[Path, int, int]:
        """Return the dump that shares the most first tokens; how many, and how many it has."""
        key = _to_key(ids)
        place = bisect_left(self.keys, key)
        around = range(max(place - 1, 0), min(place + 1, len(self.keys)))
        shared, best = max((_num_shared(self.keys[near], key), near) for near in around)
        return self.files[best], shared, len(self.keys[best]) // 4

    def read(self, file: Path, num_tokens: int) -> dict[int, Tensor]:
        """Read the states of the first tokens: layer -> [tokens, width].

        Raises:
            CriticError: a token has no state, which is then all zeros.
        """
        with _opened(file) as dump:
            states: Tensor = dump.get_slice(STATES)[:num_tokens]
        empty = (states == 0).flatten(1).all(dim=1).nonzero()
        if len(empty):
            raise CriticError(
                f"{file}: the states of token {int(empty[0])} are all 0, so they were not computed;"
                f" {_NO_PREFIX_CACHING}"
            )
        return dict(zip(self.shape.layers, states.unbind(dim=1), strict=True))


def _read_key(file: Path, shape: DumpShape) -> bytes:
    """The token ids of a dump whose states have the right shape."""
    with _opened(file) as dump:
        if missing := {STATES, TOKENS} - set(dump.keys()):
            raise CriticError(
                f"{file}: has no tensor {sorted(missing)[0]!r}, so vLLM's extract_hidden_states did"
                " not write it; give a folder with nothing else in it"
            )
        states, ids = dump.get_slice(STATES), dump.get_tensor(TOKENS)
        if ids.is_floating_point() or bool((ids < 0).any()):
            raise CriticError(
                f"{file}: {TOKENS} are not all ids of tokens; it is damaged, so write it again"
            )
        _check_shape(file, list(states.get_shape()), list(ids.shape), shape)
        found = dump.get_slice(STATES)[:1].dtype
    if found != shape.dtype:
        name = str(found).removeprefix("torch.")
        raise CriticError(
            f"{file}: its states are {name}, and models.policy.dtype computes in"
            f" {str(shape.dtype).removeprefix('torch.')}; set models.policy.dtype to {name}"
        )
    return _to_key(ids.tolist())


def _check_shape(file: Path, states: list[int], ids: list[int], shape: DumpShape) -> None:
    if len(states) != 3 or len(ids) != 1 or not ids[0]:
        raise CriticError(
            f"{file}: {STATES} has shape {states} and {TOKENS} {ids}, where [tokens, layers, width]"
            " and [tokens] are expected; write it with vLLM's extract_hidden_states"
        )
    if states[0] < ids[0]:
        raise CriticError(
            f"{file}: has states of {states[0]} tokens only, of {ids[0]}, as prefix caching leaves"
            f" it; {_NO_PREFIX_CACHING}"
        )
    if states[0] > ids[0]:
        raise CriticError(
            f"{file}: has states of {states[0]} tokens and ids of {ids[0]}; it is damaged, so write"
            " it again"
        )
    if states[1] != len(shape.layers):
        raise CriticError(
            f"{file}: has {states[1]} layers, and {len(shape.layers)} are named"
            f" ({', '.join(map(str, shape.layers))}); give one --layer for each of vLLM's"
            " eagle_aux_hidden_state_layer_ids"
        )
    if states[2] != shape.width:
        raise CriticError(
            f"{file}: its states have width {states[2]}, and the backbone's {shape.width};"
            " models.policy.path must be the model that vLLM ran"
        )


def _opened(file: Path) -> Any:
    try:
        return safe_open(str(file), "pt")
    except (SafetensorError, OSError) as error:
        raise CriticError(
            f"{file}: cannot be read ({error}); if vLLM is still writing it, wait, else write it"
            " again"
        ) from error


def _to_key(ids: Sequence[int]) -> bytes:
    """Four bytes an id, the highest first, so that bytes compare as ids do."""
    return np.asarray(ids, ">u4").tobytes()


def _num_shared(one: bytes, other: bytes) -> int:
    """How many first ids two keys share."""
    length = min(len(one), len(other)) // 4
    ids, others = (np.frombuffer(key, ">u4", length) for key in (one, other))
    differ = np.flatnonzero(ids != others)
    return int(differ[0]) if len(differ) else length
