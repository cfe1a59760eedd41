"""Numbers that say how well scores tell correct from incorrect outputs of the same problem."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from featurize.arrays import Bools, Floats, Ints
from featurize.errors import CriticError


class EvaluationError(CriticError):
    """What was to be evaluated cannot be; the message is one line for the user."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSamples:
    """The labelled samples of a split with one judge's score for each; n rows in every column."""

    scores: Floats
    """[n] any finite number; higher means more likely correct."""

    is_correct: Bools
    """[n] the labels; samples without one are left out before."""

    problem: Ints
    """[n] code of the problem in one language; only samples of equal code are compared."""

    output_tokens: Ints
    """[n] length of the output."""

    def __post_init__(self) -> None:
        """Refuse columns that do not fit each other, labels that are no bools, NaN and inf."""
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        shapes = {name: np.shape(column) for name, column in vars(self).items()}
        if len(set(shapes.values())) != 1 or self.scores.ndim != 1:
            raise EvaluationError(f"columns of one length needed, got the shapes {shapes}")
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
            raise EvaluationError(
                f"score of sample {index} is {self.scores[index]} "
                f"({not_finite.size} of {len(self)} are not finite): check what made the scores"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def with_scores(self, scores: npt.ArrayLike) -> Self:
        """Return the same samples as another judge scores them."""
        return replace(self, scores=np.asarray(scores, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class PerProblem:
    """Won comparisons of every problem that has both labels; p rows in every column."""

    problem: Ints  # [p] ascending codes
    wins: Floats  # [p] pairs whose correct sample scores higher; a tie counts one half
    num_pairs: Ints  # [p] num_correct * num_incorrect
    num_correct: Ints  # [p]
    num_incorrect: Ints  # [p]

    def __len__(self) -> int:
        return len(self.problem)


class PairwiseAccuracy(NamedTuple):
    """Share of (correct, incorrect) pairs that are ranked rightly; 0.5 is chance."""

    over_pairs: float
    """Every pair weighs the same, so problems with many samples rule."""

    over_problems: float
    """Every problem weighs the same."""


class ValueMeans(NamedTuple):
    """Where the scores of either label lie on average."""

    mean_correct: float
    mean_incorrect: float
    gap: float
    """mean_correct - mean_incorrect; depends on the scale of the scores."""


def pairwise_counts(scored: ScoredSamples) -> PerProblem:
    """Compare every correct with every incorrect sample of its problem, without listing the pairs.

    The wins of a problem are its Mann-Whitney U = R - c(c+1)/2, where R is the sum of the ranks of
    its c correct samples and tied scores share their average rank. Memory is linear in n.
    """
    if not len(scored):
        raise EvaluationError("there are no labelled samples to evaluate")
    # by problem, then score: np.lexsort((scores, problem)) with a faster first sort
    order = np.argsort(scored.scores)
    order = order[np.argsort(scored.problem[order], kind="stable")]
    problem, scores = scored.problem[order], scored.scores[order]
    is_first = np.r_[True, problem[1:] != problem[:-1]]  # [n] opens a problem
    is_first_of_tie = is_first | np.r_[True, scores[1:] != scores[:-1]]  # [n]
    problem_start, tie_start = np.flatnonzero(is_first), np.flatnonzero(is_first_of_tie)
    sizes = np.diff(problem_start, append=len(scored))  # [problems]
    tie_sizes = np.diff(tie_start, append=len(scored))  # [ties]
    num_below = tie_start - np.repeat(problem_start, sizes)[tie_start]  # [ties]
    # NOTE: twice the average rank is an integer, so wins are exact whatever the number of samples.
    twice_rank = np.repeat(2 * num_below + tie_sizes + 1, tie_sizes)  # [n]

    is_correct = scored.is_correct[order]
    num_correct = np.add.reduceat(is_correct.astype(np.int64), problem_start)
    twice_rank_sum = np.add.reduceat(np.where(is_correct, twice_rank, 0), problem_start)
    twice_wins = twice_rank_sum - num_correct * (num_correct + 1)
    num_pairs = num_correct * (sizes - num_correct)
    kept = num_pairs > 0
    if not kept.any():
        raise EvaluationError(
            f"none of the {len(sizes)} problems ({len(scored)} samples) has both a correct and an "
            "incorrect sample: evaluate on a split with both labels"
        )
    return PerProblem(
        problem=problem[problem_start][kept],
        wins=twice_wins[kept] / 2,
        num_pairs=num_pairs[kept],
        num_correct=num_correct[kept],
        num_incorrect=(sizes - num_correct)[kept],
    )


def pairwise_accuracy(counts: PerProblem) -> PairwiseAccuracy:
    """Return the share of pairs won, over all pairs and as the mean over problems."""
    return PairwiseAccuracy(
        over_pairs=float(counts.wins.sum() / counts.num_pairs.sum()),
        over_problems=float((counts.wins / counts.num_pairs).mean()),
    )


def auc(scored: ScoredSamples) -> float:
    """Return the area under the ROC curve: pairs won when all samples count as one problem."""
    _require_both_labels(scored.is_correct)
    together = replace(scored, problem=np.zeros_like(scored.problem))
    return pairwise_accuracy(pairwise_counts(together)).over_pairs


def value_means(scored: ScoredSamples) -> ValueMeans:
    """Return the mean score of either label, over all samples, and their difference."""
    _require_both_labels(scored.is_correct)
    correct = float(scored.scores[scored.is_correct].mean())
    incorrect = float(scored.scores[~scored.is_correct].mean())
    return ValueMeans(mean_correct=correct, mean_incorrect=incorrect, gap=correct - incorrect)


def best_f1_threshold(scores: Floats, labels: Bools) -> float:
    """Return the score from which on calling a sample correct has the highest F1.

    Fit it on train only. Of equally good thresholds the highest is taken.
    """
    _require_both_labels(labels)
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    num_called = np.arange(1, len(scores) + 1)
    f1 = 2 * np.cumsum(labels[order]) / (num_called + labels.sum())  # [n] F1 of the first i + 1
    is_last_of_tie = np.r_[descending[1:] != descending[:-1], True]  # ties are called together
    return float(descending[np.argmax(np.where(is_last_of_tie, f1, -1.0))])


def f1_at(threshold: float, scores: Floats, labels: Bools) -> float:
    """Return the F1 of calling correct what scores at least the threshold; 0 when none is right."""
    is_called = scores >= threshold
    num_right = int((is_called & labels).sum())
    return 2 * num_right / max(int(is_called.sum() + labels.sum()), 1)


def _require_both_labels(labels: Bools) -> None:
    num_correct = int(labels.sum())
    if not 0 < num_correct < len(labels):
        raise EvaluationError(
            f"{num_correct} of {len(labels)} samples are correct: both labels are needed"
        )
