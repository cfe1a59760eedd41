"""The results of an evaluation: frozen values that become JSON and come back from it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import TypeAdapter

from headtrain.evaluation.numbers import (
    ACCURACY,
    HEAD_NUMBERS,
    JUDGE,
    LENGTH_CORRELATION,
    Intervals,
    Number,
    differences,
    name_all,
    pass_rate,
)
from headtrain.metrics.bootstrap import Interval
from headtrain.metrics.calibration import Decision, ReliabilityBin

HEAD = "head"
"""Name of the head among the judges."""

PREFIX = "prefix"
"""Breakdown of the head's accuracy by how much of the outputs it has read."""

HALVED = "halved"
"""Picker of best of n: half of the candidates are dropped at half of their tokens."""

SUBSETS = {
    "length_matched": "pairs of similar length",
    "minimal_pairs": "minimal pairs",
    "same_author": "pairs of one author",
    "author_prior_wrong": "pairs where the author misleads",
}
"""Titles of the slices of `Details` that are not part of a breakdown, by field."""

Accuracy = Mapping[str, Interval]
"""Pairwise accuracy by key: over pairs and over problems (and the AUC of a whole split)."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of samples, problems and pairs in a split."""

    num_samples: int
    """Labelled samples: the basis of values, F1, AUC and calibration."""

    num_samples_left_out: int
    """Samples in no pair because their problem has one label only."""

    num_problems: int
    """Problems with both labels: the basis of pairwise accuracies."""

    num_problems_left_out: int
    """Problems with one label only."""

    num_pairs: int
    """(correct, incorrect) combinations within problems."""


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """The numbers of any split."""

    counts: Counts
    judges: Mapping[str, Accuracy]
    """The head first, then the shortcuts."""

    numbers: Intervals
    """The head's values, variance and decision by key; without a decision if none was fitted."""

    @property
    def head(self) -> Intervals:
        """All numbers of the head by key, its accuracies first."""
        return {**self.judges[HEAD], **self.numbers}


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A subset of the pairs."""

    name: str
    num_pairs: int
    num_problems: int
    judges: Mapping[str, Accuracy]
    """The head, and the shortcuts that apply."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A judge whose accuracy must be 0.5: otherwise the evaluation itself leaks the labels."""

    result: Accuracy
    holds: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The part of the head's accuracy that no shortcut explains."""

    best_shortcut: str
    """The shortcut with the highest accuracy over problems on this split."""

    margin: Accuracy
    """Head minus that shortcut, paired."""

    rescued: Interval | None
    """Share of the pairs that the shortcut gets wrong and the head gets right."""


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Pass rate if one of n candidates is picked, over all subsets of n."""

    num_problems: int
    """Problems with at least the largest n candidates: the same for the whole curve."""

    num_problems_left_out: int
    n: tuple[int, ...]
    pickers: Mapping[str, tuple[Interval, ...]]
    """A pass rate for each n, by picker: head, any, oracle, shortest, ..."""

    def numbers(self) -> Iterator[Number]:
        """Yield the pass rates of the head."""
        for place, (n, rate) in enumerate(zip(self.n, self.pickers[HEAD], strict=True)):
            yield from name_all([pass_rate(n, place)], {str(place): rate})


@dataclass(frozen=True, kw_only=True)
class Details:
    """The detailed results of the evaluated split."""

    controls: Mapping[str, Control]
    verdict: Verdict | None
    """None without shortcuts."""

    length_correlation: Interval | None
    """Mean rank correlation of score and length within problems; None if undefined everywhere."""

    length_matched: Slice | None
    """Pairs of similar length; None if there are none."""

    minimal_pairs: Slice | None
    """Pairs a small edit apart; None if there are none or without texts."""

    same_author: Slice | None = None
    """Pairs whose outputs have the same author; None if there are none."""

    author_prior_wrong: Slice | None = None
    """Pairs whose incorrect output has the author who is right more often on train."""

    breakdowns: Mapping[str, tuple[Slice, ...]]
    """By attribute: difficulty, language, source, candidates, length_difference, prefix."""

    best_of_n: BestOfN
    reliability: tuple[ReliabilityBin, ...]
    """Empty without a calibration."""

    left_out: Mapping[str, str]
    """What could not be computed, and why."""

    @property
    def subsets(self) -> dict[str, Slice]:
        """The slices that are not part of a breakdown, by title."""
        return {SUBSETS[name]: part for name, part in self._subsets().items()}

    def _subsets(self) -> dict[str, Slice]:
        found = {name: getattr(self, name) for name in SUBSETS}
        return {name: part for name, part in found.items() if part is not None}

    def numbers(self) -> Iterator[Number]:
        """Yield all numbers that are tracked."""
        if self.verdict is not None:
            yield from name_all(ACCURACY, self.verdict.margin, "unexplained/")
        yield from name_all([LENGTH_CORRELATION], {LENGTH_CORRELATION.key: self.length_correlation})
        for name, part in self._subsets().items():
            yield from name_all(ACCURACY, part.judges[HEAD], f"{name}/")
        yield from self.best_of_n.numbers()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation of one head."""

    splits: Mapping[str, SplitResult]
    details: Mapping[str, Details]
    """Of the splits evaluated in detail."""

    train_minus: Mapping[str, Intervals]
    """Differences of the head's numbers by the name of the other split; empty without train."""

    decision: Decision | None
    bootstrap_rounds: int
    confidence: float
    seed: int

    def numbers(self, split: str) -> Iterator[Number]:
        """Yield all numbers of a split that are tracked."""
        result = self.splits[split]
        for judge, accuracy in result.judges.items():
            yield from name_all(JUDGE, accuracy, f"{judge}/")
        yield from name_all(HEAD_NUMBERS, result.numbers)
        difference = self.train_minus.get(split, {})
        yield from name_all(differences([*JUDGE, *HEAD_NUMBERS]), difference, "train_minus/")
        if split in self.details:
            yield from self.details[split].numbers()

    def metrics(self, split: str, more: Iterable[Number] = ()) -> dict[str, float]:
        """Get the numbers of a split, and more, under the names that the tracking server plots."""
        return {
            f"eval/{split}/{name}": value
            for number in (*self.numbers(split), *more)
            for name, value in number.to_metrics()
        }

    def to_dict(self) -> dict[str, Any]:
        """Convert to nested dicts of plain values, for JSON."""
        content = asdict(self)
        for result in content["splits"].values():
            result |= _nested(result.pop("numbers"))
            result.setdefault("decision", None)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Build the evaluation from what `to_dict` returned; other keys are ignored.

        Raises:
            ValueError: it is something else.
        """
        splits = {
            name: {**{key: result[key] for key in ("counts", "judges")}, "numbers": _flat(result)}
            for name, result in content["splits"].items()
        }
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        evaluation: Self = TypeAdapter(cls).validate_python(known | {"splits": splits})
        return evaluation


def _nested(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """From values by dotted key to nested dicts."""
    content: dict[str, Any] = {}
    for key, value in numbers.items():
        *groups, last = key.split(".")
        inner = content
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return content


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """The values of HEAD_NUMBERS by dotted key, from nested dicts."""
    found = {}
    for number in HEAD_NUMBERS:
        value: Any = content
        *groups, last = number.key.split(".")
        for group in groups:
            value = value.get(group) or {}
        if last in value:
            found[number.key] = value[last]
    return found
