"""Pairwise accuracy: how often a correct output scores above an incorrect one of its problem."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from featurize.arrays import Bools, Floats, Ints
from featurize.errors import CriticError
from headtrain.metrics.groups import group_codes, sort_ties


class EvaluationError(CriticError):
    """The samples or scores cannot be evaluated."""


class NotFiniteError(EvaluationError):
    """Scores are NaN or inf."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSamples:
    """The labelled samples of a split with one judge's scores; n rows in every column."""

    scores: Floats
    """[n] finite; higher means more likely correct."""

    is_correct: Bools
    """[n] labels; unlabelled samples are left out."""

    problem: Ints
    """[n] code of the problem in one language; only samples of equal code are compared."""

    output_tokens: Ints
    """[n] length of the output."""

    equal_pairs: Ints | None = None
    """[pairs, 2] indices of a correct and an incorrect sample of a problem that have the same
    tokens: no judge of them can tell the two apart, so they are not compared. None: no pair."""

    def __post_init__(self) -> None:
        """Refuse columns of different lengths, labels that are not bool, NaN and inf."""
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        names = ("scores", "is_correct", "problem", "output_tokens")
        shapes = {name: np.shape(getattr(self, name)) for name in names}
        if len(set(shapes.values())) != 1 or self.scores.ndim != 1:
            raise EvaluationError(f"all columns must have the same length, got shapes {shapes}")
        for name, kind in (("is_correct", "b"), ("problem", "iu"), ("output_tokens", "iu")):
            dtype = np.asarray(getattr(self, name)).dtype
            if dtype.kind not in kind:
                wanted = "bool; leave out the samples without a label" if kind == "b" else "integer"
                raise EvaluationError(f"column {name} is {dtype}, it must be {wanted}")
            column = np.asarray(getattr(self, name), dtype=bool if kind == "b" else np.int64)
            object.__setattr__(self, name, column)
        not_finite = np.flatnonzero(~np.isfinite(self.scores))
        if not_finite.size:
            index = int(not_finite[0])
            raise NotFiniteError(
                f"score of sample {index} is {self.scores[index]} "
                f"({not_finite.size} of {len(self)} are not finite): check how they were computed"
            )

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def group(self) -> Ints:
        """Dense code of each sample's problem, [n]."""
        return group_codes(self.problem)

    @property
    def num_groups(self) -> int:
        """Number of problems, with or without both labels."""
        return int(self.group.max(initial=-1)) + 1

    @property
    def num_equal_pairs(self) -> int:
        """Number of pairs that are not compared, because both sides have the same tokens."""
        return 0 if self.equal_pairs is None else len(self.equal_pairs)

    def with_scores(self, scores: npt.ArrayLike) -> Self:
        """Replace the scores by those of another judge."""
        return replace(self, scores=np.asarray(scores, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTally:
    """Pairs won and pairs compared in each of p problems; a problem may have no pairs."""

    wins: Floats  # [p] pairs whose correct sample scores higher; a tie counts one half
    num_pairs: Ints  # [p]

    @property
    def shares(self) -> Floats:
        """Share of the pairs won in each problem, [p]; NaN without pairs."""
        return np.asarray(self.wins / self.num_pairs, np.float64)

    @property
    def total(self) -> int:
        """Number of pairs in all problems."""
        return int(self.num_pairs.sum())

    @property
    def num_problems(self) -> int:
        """Number of problems with at least one pair."""
        return int((self.num_pairs > 0).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class PerProblem(PairTally):
    """The tally of all pairs of each problem that has both labels."""

    problem: Ints  # [p] ascending codes
    num_correct: Ints  # [p]
    num_incorrect: Ints  # [p]

    def __len__(self) -> int:
        return len(self.problem)


class PairwiseAccuracy(NamedTuple):
    """Share of (correct, incorrect) pairs in the right order; 0.5 is chance."""

    over_pairs: float
    """Every pair has the same weight, so problems with many samples dominate."""

    over_problems: float
    """Every problem has the same weight."""


def pairwise_counts(scored: ScoredSamples) -> PerProblem:
    """Count the pairs each problem wins, from ranks instead of a list of pairs.

    The wins of a problem are its Mann-Whitney U = R - c(c+1)/2, where R is the sum of the ranks of
    its c correct samples and tied scores share their average rank. Memory is linear in n.

    Raises:
        EvaluationError: there are no samples, or no problem has both labels.
    """
    if not len(scored):
        raise EvaluationError("there are no labelled samples to evaluate")
    order, problem_start, tie_start = sort_ties(scored.problem, scored.scores)
    problems = scored.problem[order[problem_start]]  # [problems] ascending codes
    sizes = np.diff(problem_start, append=len(scored))  # [problems]
    tie_sizes = np.diff(tie_start, append=len(scored))  # [ties]
    num_below = tie_start - np.repeat(problem_start, sizes)[tie_start]  # [ties]
    # NOTE: twice the average rank is an integer, so wins are exact for any number of samples.
    twice_rank = np.repeat(2 * num_below + tie_sizes + 1, tie_sizes)  # [n]

    is_correct = scored.is_correct[order]
    num_correct = np.add.reduceat(is_correct.astype(np.int64), problem_start)
    twice_rank_sum = np.add.reduceat(np.where(is_correct, twice_rank, 0), problem_start)
    twice_wins = twice_rank_sum - num_correct * (num_correct + 1)
    num_pairs = num_correct * (sizes - num_correct)
    if scored.equal_pairs is not None:
        equal = scored.equal_pairs
        owners = np.searchsorted(problems, scored.problem[equal[:, 0]])
        signs = np.sign(scored.scores[equal[:, 0]] - scored.scores[equal[:, 1]]).astype(np.int64)
        num_pairs = num_pairs - np.bincount(owners, minlength=len(sizes))
        twice_wins = twice_wins - np.bincount(owners, signs + 1, len(sizes)).astype(np.int64)
    kept = num_pairs > 0
    if not kept.any():
        reason = f" ({scored.num_equal_pairs:,} pairs have the same tokens on both sides)"
        raise EvaluationError(
            f"none of the {len(sizes)} problems ({len(scored)} samples) has both a correct and an "
            f"incorrect sample{reason if scored.num_equal_pairs else ''}: evaluate on a split with "
            "both labels"
        )
    return PerProblem(
        problem=problems[kept],
        wins=twice_wins[kept] / 2,
        num_pairs=num_pairs[kept],
        num_correct=num_correct[kept],
        num_incorrect=(sizes - num_correct)[kept],
    )


def pairwise_accuracy(counts: PairTally) -> PairwiseAccuracy:
    """Get the share of pairs won, over all pairs and as the mean over problems."""
    return PairwiseAccuracy(
        over_pairs=float(counts.wins.sum() / counts.num_pairs.sum()),
        over_problems=float(counts.shares.mean()),
    )
