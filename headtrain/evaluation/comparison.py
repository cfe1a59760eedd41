"""Comparison of heads on the same pairs: which is better, how surely, where they disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Floats
from featurize.store import FeatureStore
from headtrain.evaluation.numbers import accuracy_intervals
from headtrain.evaluation.results import Accuracy
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.bootstrap import resample_accuracies
from headtrain.metrics.groups import find_equal_pairs, group_codes
from headtrain.metrics.pairs import McNemar, count_agreement, mcnemar, widest_pairs
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples, pairwise_counts
from headtrain.settings import EvaluationSettings

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of heads."""

FIRST, SECOND = "A", "B"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A pair that one head orders correctly and the other does not."""

    correct: int
    """Index of its correct sample."""
    incorrect: int
    first_margin: float
    """Score of the correct minus that of the incorrect sample, in the head's own deviations."""
    second_margin: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Accuracies of two heads, their difference and their disagreements."""

    num_samples: int
    num_pairs: int
    num_problems: int
    heads: Mapping[str, Accuracy]
    """Of A and B."""

    difference: Accuracy
    """A minus B, over the same resamples of the problems."""

    num_both_right: int
    num_both_wrong: int
    """Pairs that neither orders correctly; a tie is not correct."""

    mcnemar: McNemar
    problems_won: int
    """Problems where A has the higher accuracy."""

    problems_lost: int
    wins: tuple[Disagreement, ...]
    """Pairs that A orders correctly and B does not, the widest first."""

    losses: tuple[Disagreement, ...]

    def to_dict(self) -> dict[str, object]:
        """Convert to nested dicts of plain values, for JSON."""
        return {**asdict(self), "mcnemar": self.mcnemar._asdict()}


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Several heads on the same pairs."""

    num_samples: int
    num_pairs: int
    num_problems: int
    heads: Mapping[str, Accuracy]
    """By letter."""

    differences: Mapping[str, Mapping[str, Accuracy]]
    """Row minus column, by letter, over the same resamples of the problems."""

    comparisons: Mapping[str, Comparison]
    """The first head (A there) with each other one (B there), by the other one's letter."""

    def to_dict(self) -> dict[str, object]:
        """Convert to nested dicts of plain values, for JSON."""
        compared = {name: one.to_dict() for name, one in self.comparisons.items()}
        return {**asdict(self), "comparisons": compared}


def compare(
    first: ScoredSamples,
    second: ScoredSamples,
    settings: EvaluationSettings,
    *,
    seed: int = 0,
    num_disagreements: int = 10,
) -> Comparison:
    """Compare two judges of the same samples; half of the disagreements are wins, half losses.

    Raises:
        EvaluationError: the samples differ, or no problem has both labels.
    """
    is_same = np.array_equal(first.problem, second.problem) and np.array_equal(
        first.is_correct, second.is_correct
    )
    if not is_same:
        raise EvaluationError("the two heads must score the same samples in the same order")
    counts = {FIRST: pairwise_counts(first), SECOND: pairwise_counts(second)}
    found = resample_accuracies(counts, rounds=settings.bootstrap_rounds, seed=seed)
    agreed = count_agreement(first, second)
    both, only_first, only_second, num_pairs = (
        int(column.sum())
        for column in (agreed.both, agreed.only_first, agreed.only_second, agreed.num_pairs)
    )
    ahead = counts[FIRST].wins - counts[SECOND].wins  # [problems] of the same number of pairs
    confidence = settings.confidence
    return Comparison(
        num_samples=len(first),
        num_pairs=num_pairs,
        num_problems=len(counts[FIRST]),
        heads={name: accuracy_intervals(one, confidence) for name, one in found.items()},
        difference=accuracy_intervals(found[FIRST].minus(found[SECOND]), confidence),
        num_both_right=both,
        num_both_wrong=num_pairs - both - only_first - only_second,
        mcnemar=mcnemar(only_first, only_second),
        problems_won=int((ahead > 0).sum()),
        problems_lost=int((ahead < 0).sum()),
        wins=tuple(find_disagreements(first, second, (num_disagreements + 1) // 2)),
        losses=tuple(find_disagreements(second, first, num_disagreements // 2)),
    )


def compare_all(
    scored: Sequence[ScoredSamples],
    settings: EvaluationSettings,
    *,
    seed: int = 0,
    num_disagreements: int = 10,
) -> SideBySide:
    """Compare the scores that heads give the same samples.

    Raises:
        EvaluationError: there are more heads than letters, or no problem has both labels.
    """
    if len(scored) > len(LETTERS):
        raise EvaluationError(f"{len(scored)} heads are more than {len(LETTERS)}; give fewer")
    judges = dict(zip(LETTERS, scored, strict=False))
    counts = {name: pairwise_counts(one) for name, one in judges.items()}
    found = resample_accuracies(counts, rounds=settings.bootstrap_rounds, seed=seed)
    confidence = settings.confidence
    first = counts[LETTERS[0]]
    return SideBySide(
        num_samples=len(scored[0]),
        num_pairs=first.total,
        num_problems=first.num_problems,
        heads={name: accuracy_intervals(one, confidence) for name, one in found.items()},
        differences={
            row: {
                column: accuracy_intervals(one.minus(other), confidence)
                for column, other in found.items()
                if column != row
            }
            for row, one in found.items()
        },
        comparisons={
            name: compare(scored[0], one, settings, seed=seed, num_disagreements=num_disagreements)
            for name, one in islice(judges.items(), 1, None)
        },
    )


def find_disagreements(
    first: ScoredSamples, second: ScoredSamples, limit: int
) -> list[Disagreement]:
    """Find pairs that the first head gets right and the second wrong, the widest difference first.

    Scores are scaled by their standard deviation within problems. A pair's difference of margins
    is then a difference of d = first - second at its two samples, so the widest pair of a problem
    consists of the extremes of d. Only these are considered, at most one per problem.
    """
    scaled = [judge.with_scores(_scaled(judge)) for judge in (first, second)]
    difference = scaled[1].with_scores(scaled[1].scores - scaled[0].scores)
    widest = widest_pairs(difference, len(first))
    found = []
    for correct, incorrect in zip(widest.correct, widest.incorrect, strict=True):
        margins = [float(judge.scores[correct] - judge.scores[incorrect]) for judge in scaled]
        if margins[0] > 0 > margins[1]:
            found.append(
                Disagreement(
                    correct=int(correct),
                    incorrect=int(incorrect),
                    first_margin=margins[0],
                    second_margin=margins[1],
                )
            )
        if len(found) == limit:
            break
    return found


def _scaled(scored: ScoredSamples) -> Floats:
    """Scores divided by their standard deviation within problems, [n]."""
    means = np.bincount(scored.group, scored.scores) / np.bincount(scored.group)
    spread = float(np.sqrt(np.mean((scored.scores - means[scored.group]) ** 2)))
    return scored.scores / spread if spread else scored.scores


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedSamples:
    """Samples that the stores of several heads share, in the order of the first store."""

    scored: tuple[ScoredSamples, ...]
    """By head."""
    task_ids: pa.ChunkedArray
    """[samples]"""
    num_left_out: int
    """Labelled samples that not all of the stores have."""


def read_shared(heads: Sequence[tuple[TrainedHead, FeatureStore]]) -> SharedSamples:
    """Score heads, each on a store of its recipe, and match the samples by task_id.

    Raises:
        EvaluationError: no sample is in all stores, or one has different labels.
    """
    stores = [store for _, store in heads]
    labelled = [read_labelled_samples(store) for store in stores]
    ids = [
        store.samples["task_id"].take(pa.array(one.table_rows))
        for store, one in zip(stores, labelled, strict=True)
    ]
    places = [pc.index_in(ids[0], value_set=own.combine_chunks()) for own in ids]
    is_shared = np.logical_and.reduce([pc.is_valid(one).to_numpy() for one in places])
    if not is_shared.any():
        raise EvaluationError(
            f"{' and '.join(str(store.path) for store in stores)} have no sample in common, so "
            "their heads cannot be compared; featurize the same split for all"
        )
    shared_ids = ids[0].filter(pa.array(is_shared))
    shared = [
        one.take(own.filter(pa.array(is_shared)).to_numpy().astype(np.int64))
        for one, own in zip(labelled, places, strict=True)
    ]
    _refuse_other_labels(stores, shared, shared_ids)
    scored = _to_scored(shared)
    return SharedSamples(
        scored=tuple(
            scored.with_scores(head.score(store)[own.table_rows])
            for (head, store), own in zip(heads, shared, strict=True)
        ),
        task_ids=shared_ids,
        num_left_out=sum(map(len, labelled)) - sum(map(len, shared)),
    )


def _to_scored(shared: Sequence[LabelledSamples]) -> ScoredSamples:
    """Take the samples of the first store, without the pairs that any store cannot tell apart."""
    first = shared[0]
    equal_pairs = [
        find_equal_pairs(group_codes(first.problems, own.feature_rows), first.is_correct)
        for own in shared
    ]
    return ScoredSamples(
        scores=np.zeros(len(first)),
        is_correct=first.is_correct,
        problem=first.problems,
        output_tokens=first.output_tokens,
        equal_pairs=np.unique(np.concatenate(equal_pairs), axis=0),
    )


def _refuse_other_labels(
    stores: Sequence[FeatureStore], shared: Sequence[LabelledSamples], ids: pa.ChunkedArray
) -> None:
    for store, own in zip(stores, shared, strict=True):
        differs = np.flatnonzero(shared[0].is_correct != own.is_correct)
        if len(differs):
            raise EvaluationError(
                f"sample {ids[int(differs[0])].as_py()!r} has different labels in "
                f"{stores[0].path} and {store.path}; featurize both from one dataset"
            )
