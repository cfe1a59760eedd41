"""Holds train problems out of training, to separate memorisation from a shift between splits.

Problems are ordered by the hash of their id and the first ones are held out: no seed, no row order
and no other problem that is added or removed moves a problem across the boundary.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools
from featurize.errors import CriticError
from headtrain.features.samples import rank_strings


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """The train problems that a head does not train on; `train_holdout` in head.json."""

    share: float
    """Share of the problems, as in the settings."""
    boundary: str
    """A problem is held out if the hash of its id is at most this."""

    def contains(self, problem_id: str) -> bool:
        """Whether a problem is held out."""
        return _hash(problem_id) <= self.boundary

    def mask(self, problem_ids: pa.ChunkedArray) -> Bools:
        """Whether the problem of each row is held out, [rows]."""
        problems = rank_strings(problem_ids)
        held = [name is not None and self.contains(name) for name in problems.names.to_pylist()]
        return np.array([*held, False])[problems.codes]


def choose_holdout(problem_ids: Collection[str], share: float) -> Holdout | None:
    """Hold out this share of the problems, at least one and never all; None for a share of 0.

    Raises:
        CriticError: there are fewer than two problems.
    """
    if not share:
        return None
    hashes = sorted(_hash(name) for name in set(problem_ids))
    if len(hashes) < 2:
        raise CriticError(
            f"evaluation.train_holdout {share} needs two train problems, there is {len(hashes)}; "
            "set it to 0"
        )
    number = min(max(1, round(share * len(hashes))), len(hashes) - 1)
    return Holdout(share=share, boundary=hashes[number - 1])


def labelled_problems(samples: pa.Table) -> list[str]:
    """Return the sorted ids of the problems with both labels."""
    labelled = samples.select(["problem_id", "is_correct"]).filter(
        pc.is_valid(samples["is_correct"])
    )
    ids, labels = rank_strings(labelled["problem_id"]), labelled["is_correct"].to_numpy()
    num_correct = np.bincount(ids.codes[labels.astype(bool)], minlength=len(ids.names))
    sizes = np.bincount(ids.codes, minlength=len(ids.names))
    has_both = (num_correct > 0) & (num_correct < sizes)
    names: list[str] = ids.names.filter(pa.array(has_both)).to_pylist()
    return names


def _hash(problem_id: str) -> str:
    return hashlib.sha256(problem_id.encode()).hexdigest()
