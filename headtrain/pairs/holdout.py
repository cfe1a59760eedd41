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
from featurize.store import statement_codes
from headtrain.features.samples import rank_strings
from headtrain.metrics.groups import group_codes


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
    """Return the sorted ids of the problems with both labels for one statement."""
    is_labelled = np.asarray(pc.is_valid(samples["is_correct"]).to_numpy(), bool)
    labels = samples["is_correct"].filter(pa.array(is_labelled)).to_numpy().astype(bool)
    ids = rank_strings(samples["problem_id"])
    problems = ids.codes[is_labelled]
    groups = group_codes(problems, statement_codes(samples)[is_labelled])
    sizes = np.bincount(groups)
    num_correct = np.bincount(groups[labels], minlength=len(sizes))
    has_both = (num_correct > 0) & (num_correct < sizes)
    found = np.unique(problems[has_both[groups]])
    names: list[str] = ids.names.take(pa.array(found)).to_pylist()
    return names


def _hash(problem_id: str) -> str:
    return hashlib.sha256(problem_id.encode()).hexdigest()
