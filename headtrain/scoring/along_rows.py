"""Values along the solutions of a file, for its rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurize.data.index import DatasetIndex
from featurize.errors import CriticError
from headtrain.scoring.along import Along, By
from headtrain.scoring.critic import Critic

ALONG, POSITIONS = "score_along", "score_along_tokens"
"""Fields of a row: the value of each prefix, and its number of tokens."""

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class AlongRows:
    """The values along the samples of an index, in its order."""

    values: pa.ListArray
    """[samples] lists of float64."""
    positions: pa.ListArray
    """[samples] lists of int32."""

    @property
    def num_prefixes(self) -> int:
        """Prefixes of all samples."""
        return len(self.values.flatten())

    def to_fields(self) -> dict[str, pa.Array]:
        """Return the columns to write, by name and in order."""
        return {ALONG: self.values, POSITIONS: self.positions}


def judge_along(
    critic: Critic, index: DatasetIndex, by: By, progress: Callable[[int, int], None]
) -> AlongRows:
    """Compute the values along every sample of an index; the texts are read part by part.

    Args:
        critic: the critic.
        index: the samples; those of a problem follow each other, so they share their prompt.
        by: where prefixes end.
        progress: called with the samples done and all.

    Raises:
        CriticError: a sample cannot be encoded (names file and line), or a value is not finite.
    """
    values, positions = [], []
    for start in range(0, len(index), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(index)))
        found = _judge_part(critic, index, by, rows)
        values.append(pa.array([along.values for along in found], pa.list_(pa.float64())))
        positions.append(pa.array([along.positions for along in found], pa.list_(pa.int32())))
        progress(int(rows[-1]) + 1, len(index))
    return AlongRows(values=pa.concat_arrays(values), positions=pa.concat_arrays(positions))


def _judge_part(critic: Critic, index: DatasetIndex, by: By, rows: np.ndarray) -> Sequence[Along]:
    samples = []
    for row in index.read(rows):
        try:
            samples.append(critic.with_prefixes(critic.encode_row(row), by))
        except ValueError as error:
            raise CriticError(f"{row.location}: {error}") from error
    return [one.along for one in critic.judge_samples(samples) if one.along is not None]
