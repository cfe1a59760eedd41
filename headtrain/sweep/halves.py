"""Splits the validation problems in two: one half chooses among the heads, the other reports.

The best of many heads on a set looks better there than it is. What it scores on problems that had
no say in the choice is free of that.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import LabelledSamples, read_labelled_samples
from headtrain.pairs.holdout import labelled_problems


@dataclass(frozen=True, kw_only=True)
class Halves:
    """The labelled validation samples in two halves of whole problems."""

    choose: LabelledSamples
    report: LabelledSamples


def split_in_two(store: FeatureStore) -> Halves:
    """Every second problem with both labels, in the order of the hash of its id, reports."""
    names = sorted(labelled_problems(store.samples), key=_hash)
    if len(names) < 2:
        raise CriticError(
            f"{store.path}: a sweep needs two problems with both labels, one to choose by and one "
            f"to report on, there is {len(names)}; name another dataset.validation"
        )
    samples = read_labelled_samples(store)
    ids = np.array(store.samples["problem_id"].to_pylist(), dtype=object)[samples.table_rows]
    return Halves(choose=_take(samples, ids, names[::2]), report=_take(samples, ids, names[1::2]))


def _take(
    samples: LabelledSamples, ids: npt.NDArray[np.object_], names: list[str]
) -> LabelledSamples:
    wanted = set(names)
    return samples.take(np.array([name in wanted for name in ids], bool))


def _hash(problem_id: str) -> str:
    return hashlib.sha256(f"half of valid: {problem_id}".encode()).hexdigest()
