"""The results of an evaluation: frozen values that become JSON and come back from it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import TypeAdapter

from headtrain.evaluation.head_numbers import HEAD_NUMBERS
from headtrain.evaluation.numbers import (
    ACCURACY,
    JUDGE,
    LENGTH_CORRELATION,
    RESCUED,
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

    def numbers(self, at: str) -> Iterator[Number]:
        """Yield all pass rates, named."""
        sizes = [pass_rate(n, place) for place, n in enumerate(self.n)]
        for picker, rates in self.pickers.items():
            found = {size.key: rate for size, rate in zip(sizes, rates, strict=True)}
            metrics = "" if picker == HEAD else None
            yield from name_all(sizes, found, at=f"{at}.pickers.{picker}", metrics=metrics)


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
        found = {
            "pairs of similar length": self.length_matched,
            "minimal pairs": self.minimal_pairs,
            "pairs of one author": self.same_author,
            "pairs where the author misleads": self.author_prior_wrong,
        }
        return {title: part for title, part in found.items() if part is not None}

    def numbers(self, at: str) -> Iterator[Number]:
        """Yield all numbers, named."""
        for name, control in self.controls.items():
            yield from name_all(ACCURACY, control.result, at=f"{at}.controls.{name}.result")
        if self.verdict is not None:
            at_verdict = f"{at}.verdict"
            margin = self.verdict.margin
            yield from name_all(ACCURACY, margin, at=f"{at_verdict}.margin", metrics="unexplained/")
            yield from name_all([RESCUED], {RESCUED.key: self.verdict.rescued}, at=at_verdict)
        correlation = {LENGTH_CORRELATION.key: self.length_correlation}
        yield from name_all([LENGTH_CORRELATION], correlation, at=at, metrics="")
        for name, part in (
            ("length_matched", self.length_matched),
            ("minimal_pairs", self.minimal_pairs),
            ("same_author", self.same_author),
            ("author_prior_wrong", self.author_prior_wrong),
        ):
            if part is not None:
                yield from _name_slice(part, f"{at}.{name}", f"{name}/")
        for name, parts in self.breakdowns.items():
            for place, part in enumerate(parts):
                yield from _name_slice(part, f"{at}.breakdowns.{name}.{place}", None)
        yield from self.best_of_n.numbers(f"{at}.best_of_n")


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

    def head_numbers(self, split: str) -> list[Number]:
        """Get the numbers of the head on a split, the rows of a table."""
        at, result = f"splits.{split}", self.splits[split]
        judged = name_all(JUDGE, result.judges[HEAD], at=f"{at}.judges.{HEAD}", metrics=f"{HEAD}/")
        return [*judged, *name_all(HEAD_NUMBERS, result.numbers, at=at, metrics="")]

    def numbers(self, split: str) -> list[Number]:
        """Get all numbers of a split, named."""
        at, found = f"splits.{split}", self.head_numbers(split)
        for judge, accuracy in self.splits[split].judges.items():
            if judge != HEAD:
                found += name_all(JUDGE, accuracy, at=f"{at}.judges.{judge}", metrics=f"{judge}/")
        difference = self.train_minus.get(split, {})
        quantities = differences([*JUDGE, *HEAD_NUMBERS])
        found += name_all(quantities, difference, at=f"train_minus.{split}", metrics="train_minus/")
        if split in self.details:
            found += self.details[split].numbers(f"details.{split}")
        return found

    def metrics(self, split: str) -> dict[str, float]:
        """Get the numbers of a split under the names that the tracking server plots."""
        return {
            f"eval/{split}/{name}": value
            for number in self.numbers(split)
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
            name: {
                "counts": result["counts"],
                "judges": result["judges"],
                "numbers": _flat(result),
            }
            for name, result in content["splits"].items()
        }
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        evaluation: Self = TypeAdapter(cls).validate_python(known | {"splits": splits})
        return evaluation


def _name_slice(part: Slice, at: str, metrics: str | None) -> Iterator[Number]:
    for judge, accuracy in part.judges.items():
        prefix = metrics if judge == HEAD else None
        yield from name_all(ACCURACY, accuracy, at=f"{at}.judges.{judge}", metrics=prefix)


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
