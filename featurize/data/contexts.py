"""What many rows share, their prompt, problem and metadata: each combination is kept once."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np
import pyarrow as pa

from featurize.data.arrays import dictionary_array, from_buffers
from featurize.data.fields import scalar_to_text
from featurize.data.keys import default_problem_id, prompt_keys

# Instruction, input, problem_id, language, difficulty, source; numbers are as good as their text.
Context = tuple[str, str, str | int | None, str | int | None, str | int | None, str | int | None]


class Contexts:
    """The context of each row by its number."""

    def __init__(self) -> None:
        self._codes: defaultdict[Context, int] = defaultdict(count().__next__)
        self._indices = array("i")

    def extend(self, contexts: Iterable[Context]) -> None:
        """Append the contexts of rows; None where a row gives no problem_id."""
        self._indices.extend(map(self._codes.__getitem__, contexts))

    def to_arrays(self) -> dict[str, pa.Array]:
        """Return the columns that follow from a row's context."""
        indices = np.array(self._indices)
        instructions, inputs, problems, *fields = (
            zip(*self._codes, strict=True) if self._codes else [()] * 6
        )
        keys = prompt_keys(instructions, inputs)
        lengths = [len(a) + len(b) for a, b in zip(instructions, inputs, strict=True)]
        arrays = {
            "prompt_key": _taken(np.frombuffer(b"".join(keys), "V16"), indices, pa.binary(16)),
            "prompt_chars": _taken(np.array(lengths, np.int32), indices, pa.int32()),
            "problem_id": dictionary_array(_problem_ids(problems, keys), indices),
        }
        for name, values in zip(("language", "difficulty", "source"), fields, strict=True):
            arrays[name] = dictionary_array(map(scalar_to_text, values), indices)
        return arrays


def _problem_ids(given: Sequence[str | int | None], keys: Sequence[bytes]) -> list[str | None]:
    return [
        default_problem_id(key) if problem is None else scalar_to_text(problem)
        for problem, key in zip(given, keys, strict=True)
    ]


def _taken(values: np.ndarray, indices: np.ndarray, kind: pa.DataType) -> pa.Array:
    return from_buffers(kind, len(indices), pa.py_buffer(values[indices]))
