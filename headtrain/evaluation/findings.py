"""Findings that speak against a head: what it leans on, a sentence each."""

from collections.abc import Iterator

from headtrain.evaluation.head_numbers import BEYOND_90
from headtrain.evaluation.numbers import OVER_PAIRS
from headtrain.evaluation.results import HALVED, HEAD, Details, Evaluation, Slice
from headtrain.metrics.bootstrap import Interval

LARGEST_LENGTH_CORRELATION = 0.3
LARGEST_GAP_DIFFERENCE = 0.05
"""Of train minus the evaluated split, of the gap of P(correct)."""
MOST_FAR = 0.25
"""Of the samples, farther from train than 90% of it; 0.1 is expected."""


def find_biases(evaluation: Evaluation, split: str) -> list[str]:
    """List what speaks against the head on a split evaluated in detail; the worst come first."""
    details = evaluation.details[split]
    return [
        *_failed_controls(details),
        *_distance(evaluation, split),
        *_length(details),
        *_best_of_n(details),
        *_subsets(details),
        *_gap(evaluation, split),
    ]


def _failed_controls(details: Details) -> Iterator[str]:
    for name, control in details.controls.items():
        if not control.holds:
            accuracy = control.result[OVER_PAIRS.key]
            yield f"the control {name.replace('_', ' ')} is {accuracy}, not 0.5: labels leak"


def _length(details: Details) -> Iterator[str]:
    found = details.length_correlation
    if (
        found is not None
        and _is_away_from(found, 0)
        and abs(found.estimate) >= (LARGEST_LENGTH_CORRELATION)
    ):
        kind = "longer" if found.estimate > 0 else "shorter"
        yield f"{kind} outputs score higher: rank correlation with length {found}"
    for part in details.breakdowns.get("length_difference", ()):
        accuracy = part.judges[HEAD][OVER_PAIRS.key]
        if _is_below(accuracy, 0.5):
            yield (
                f"below chance, {accuracy}, on the {part.num_pairs:,} pairs whose length "
                f"difference, correct minus incorrect, is {part.name} tokens"
            )


def _best_of_n(details: Details) -> Iterator[str]:
    best = details.best_of_n
    head = best.pickers[HEAD][-1].estimate
    others = {name: rates[-1].estimate for name, rates in best.pickers.items()}
    others = {name: rate for name, rate in others.items() if name not in (HEAD, "oracle", HALVED)}
    name = max(others, key=lambda name: others[name])
    if others[name] > head:
        who = {"any": "a random pick", "majority": "the most frequent"}.get(name, f"the {name}")
        yield f"in best of {best.n[-1]}, {who} passes {others[name]:.3f}, the head's {head:.3f}"


def _subsets(details: Details) -> Iterator[str]:
    """Subsets on which the head is below chance, or not shown to be above it."""
    for title, part in details.subsets.items():
        accuracy = part.judges[HEAD][OVER_PAIRS.key]
        if _is_below(accuracy, 0.5):
            yield f"below chance on {title}: {accuracy} over {_pairs(part)}"
        elif not _is_above(accuracy, 0.5):
            few = ", too few for an interval" if accuracy.low is None else ""
            yield f"not shown to be above chance on {title}: {accuracy} over {_pairs(part)}{few}"


def _gap(evaluation: Evaluation, split: str) -> Iterator[str]:
    difference = evaluation.train_minus.get(split, {}).get("probability_gap")
    if difference is not None and difference.estimate >= LARGEST_GAP_DIFFERENCE:
        yield f"memorises train: its gap of P(correct) is larger there by {difference}"


def _distance(evaluation: Evaluation, split: str) -> Iterator[str]:
    found = evaluation.splits[split].numbers.get(BEYOND_90.key)
    if found is not None and found.estimate > MOST_FAR:
        yield unlike_train(found.estimate)


def unlike_train(share: float) -> str:
    """Say that a head was trained on something else: `share` of the samples is far from train."""
    return (
        f"was not trained on outputs like these: {share:.0%} of them are farther from its train "
        "samples than 90% of those"
    )


def _pairs(part: Slice) -> str:
    return f"{part.num_pairs:,} pairs"


def _is_above(value: Interval, bound: float) -> bool:
    return value.low is not None and value.low > bound


def _is_below(value: Interval, bound: float) -> bool:
    return value.high is not None and value.high < bound


def _is_away_from(value: Interval, bound: float) -> bool:
    return _is_above(value, bound) or _is_below(value, bound)
