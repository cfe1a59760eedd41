"""Accuracy by subset as benchmarks of reward models count it: the right answer scores higher."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.arrays import Floats, Strings
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts

NO_SUBSET = "(no subset)"


@dataclass(frozen=True, kw_only=True)
class SubsetAccuracy:
    """One subset, or all pairs together."""

    num_pairs: int
    num_ties: int
    """Pairs whose answers score alike: counted as wrong here, as one half in our own accuracy."""
    accuracy: float
    """Share of pairs whose right answer scores strictly higher."""


@dataclass(frozen=True, kw_only=True)
class SubsetResults:
    """A judge on every subset."""

    subsets: Mapping[str, SubsetAccuracy]
    all_pairs: SubsetAccuracy
    """Every pair weighs the same: RewardBench's way within a section."""
    mean_over_subsets: float
    """Every subset weighs the same."""


def measure_subsets(scored: ScoredSamples, subsets: Strings | None) -> SubsetResults:
    """Strict accuracy by subset; `subsets` are text or None, [samples], one a problem.

    Raises:
        EvaluationError: no problem has both a right and a wrong answer.
    """
    counts = pairwise_counts(scored)
    strict = pairwise_counts(scored.with_scores(ties_lost(scored)))  # the same problems
    names = np.full(len(scored), None, object) if subsets is None else subsets
    _, first = np.unique(scored.problem, return_index=True)
    of_problem = dict(zip(scored.problem[first].tolist(), names[first].tolist(), strict=True))
    found = np.array([of_problem[code] or NO_SUBSET for code in counts.problem.tolist()], object)

    def add_up(is_in: npt.NDArray[np.bool_]) -> SubsetAccuracy:
        num_pairs, wins = int(counts.num_pairs[is_in].sum()), float(strict.wins[is_in].sum())
        return SubsetAccuracy(
            num_pairs=num_pairs,
            num_ties=round(2 * (float(counts.wins[is_in].sum()) - wins)),
            accuracy=wins / num_pairs,
        )

    by_name = {name: add_up(found == name) for name in sorted(set(found.tolist()))}
    return SubsetResults(
        subsets=by_name,
        all_pairs=add_up(np.ones(len(found), bool)),
        mean_over_subsets=float(np.mean([one.accuracy for one in by_name.values()])),
    )


def ties_lost(scored: ScoredSamples) -> Floats:
    """Scores of the same order, but a right answer below the wrong ones of its score, [samples]."""
    _, places = np.unique(scored.scores, return_inverse=True)
    return (2 * places + ~scored.is_correct).astype(np.float64)
