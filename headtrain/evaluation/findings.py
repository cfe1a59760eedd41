"""Findings of an evaluation: the verdict in words, warnings, and failed requirements."""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from featurize.errors import CriticError
from headtrain.evaluation.numbers import BEYOND_90, OVER_PAIRS, OVER_PROBLEMS, Number
from headtrain.evaluation.results import HALVED, HEAD, Details, Evaluation, SplitResult
from headtrain.metrics.bootstrap import Interval

LARGEST_LENGTH_CORRELATION = 0.3
LARGEST_GAP_DIFFERENCE = 0.05
"""Of train minus the evaluated split, of the gap of P(correct)."""
MOST_FAR = 0.25
"""Of the samples, farther from train than 90% of it; 0.1 is expected."""
LEAST_PROBLEMS = 6
"""Fewer show no difference at 95%: five agree by chance in 1 of 16 cases (sign test)."""

ALIASES = {
    "accuracy": "head/accuracy_over_problems",
    "accuracy_over_pairs": "head/accuracy_over_pairs",
    "auc": "head/auc",
    "margin": "unexplained/accuracy_over_problems",
    "margin_over_pairs": "unexplained/accuracy_over_pairs",
    "gap": "probability_gap",
    "gap_difference": "train_minus/probability_gap",
    "length_rho": "length_correlation",
    "length_matched": "length_matched/accuracy_over_pairs",
    "minimal_pairs": "minimal_pairs/accuracy_over_pairs",
    "same_author": "same_author/accuracy_over_pairs",
    "author_misleads": "author_prior_wrong/accuracy_over_pairs",
    "ece": "expected_calibration_error",
    "brier": "brier",
    "f1": "f1",
    "beyond_90": "distance_beyond_90",
    "beyond_99": "distance_beyond_99",
}
"""Short names of what the tracking server shows as `eval/<split>/<name>`."""

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_CONDITION = re.compile(
    r"(?P<abs>abs\()?\s*(?P<name>[\w/]+)(?P<bound>\.low|\.high)?\s*(?(abs)\))\s*"
    r"(?P<compare>[<>]=?)\s*(?P<limit>[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)",
    re.IGNORECASE,
)


def verdict_sentence(result: SplitResult, details: Details) -> str:
    """Put the verdict in words."""
    verdict = details.verdict
    if verdict is None:
        return "There is no shortcut to compare with."
    margin = verdict.margin[OVER_PROBLEMS.key]
    head, shortcut = (
        result.judges[name][OVER_PROBLEMS.key].estimate for name in (HEAD, verdict.best_shortcut)
    )
    name = verdict.best_shortcut.replace("_", " ")
    said = (
        f"The head orders {head:.1%} of a problem's pairs correctly, the best shortcut ({name}) "
        f"{shortcut:.1%}."
    )
    num_problems = result.counts.num_problems
    if num_problems < LEAST_PROBLEMS or margin.low is None or margin.high is None:
        return (
            f"{said} Fewer than {LEAST_PROBLEMS} problems ({num_problems} here) cannot show "
            "whether the difference is chance."
        )
    points = f"{100 * margin.estimate:.1f} points [{100 * margin.low:.1f}, {100 * margin.high:.1f}]"
    if margin.low > 0:
        return f"{said} The difference, {points}, is explained by none of the shortcuts tested."
    if margin.high < 0:
        return f"{said} The head is worse than the shortcut: the difference is {points}."
    return (
        f"{said} The difference, {points}, may be chance: this split does not show that the head "
        "is better than the shortcut."
    )


def find_biases(evaluation: Evaluation, split: str) -> list[str]:
    """List the warnings about the head on a split evaluated in detail; the worst come first."""
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
    is_large = found is not None and abs(found.estimate) >= LARGEST_LENGTH_CORRELATION
    if found is not None and is_large and (_is_above(found, 0) or _is_below(found, 0)):
        kind = "longer" if found.estimate > 0 else "shorter"
        yield f"{kind} outputs score higher: rank correlation with length {found}"
    for part in details.breakdowns.get("length_difference", ()):
        accuracy = part.judges[HEAD][OVER_PAIRS.key]
        if _is_below(accuracy, 0.5) and part.num_problems >= LEAST_PROBLEMS:
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
        is_few = part.num_problems < LEAST_PROBLEMS
        number = f"{accuracy} over {part.num_pairs:,} pairs"
        if _is_below(accuracy, 0.5) and not is_few:
            yield f"below chance on {title}: {number}"
        elif is_few or not _is_above(accuracy, 0.5):
            few = f", of fewer than {LEAST_PROBLEMS} problems" if is_few else ""
            yield f"not shown to be above chance on {title}: {number}{few}"


def _gap(evaluation: Evaluation, split: str) -> Iterator[str]:
    difference = evaluation.train_minus.get(split, {}).get("probability_gap")
    if difference is not None and difference.estimate >= LARGEST_GAP_DIFFERENCE:
        yield f"the head memorises train: its gap of P(correct) is larger there by {difference}"


def _distance(evaluation: Evaluation, split: str) -> Iterator[str]:
    found = evaluation.splits[split].numbers.get(BEYOND_90.key)
    if found is not None and found.estimate > MOST_FAR:
        yield f"the head {unlike_train(found.estimate)}"


def unlike_train(share: float) -> str:
    """Say that a head was trained on something else: `share` of the samples is far from train."""
    return (
        f"was not trained on outputs like these: {share:.0%} of them are farther from its train "
        "samples than 90% of those"
    )


def _is_above(value: Interval, bound: float) -> bool:
    return value.low is not None and value.low > bound


def _is_below(value: Interval, bound: float) -> bool:
    return value.high is not None and value.high < bound


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A condition on one number."""

    text: str
    name: str
    """Of a metric, without `eval/<split>/`."""
    bound: str | None
    """low or high; None is the estimate."""
    is_absolute: bool
    compare: str
    limit: float

    def failure(self, numbers: Mapping[str, Interval | None]) -> str | None:
        """Say why the condition fails; None if it holds. An undefined number fails."""
        interval = numbers[self.name]
        value = None if interval is None else getattr(interval, self.bound or "estimate")
        if value is None:
            return f"{self.text}: undefined on this split"
        compared = abs(value) if self.is_absolute else value
        if _COMPARE[self.compare](compared, self.limit):
            return None
        return f"{self.text}: it is {interval}"


def parse_requirements(text: str) -> list[Requirement]:
    """Parse conditions separated by commas, as `margin.low>0, abs(length_rho)<0.3`.

    Raises:
        CriticError: something else than a condition, or an unknown name.
    """
    return [_parse(part.strip()) for part in text.split(",")]


def _parse(text: str) -> Requirement:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise CriticError(
            f"--require {text!r}: not a condition; write NAME>NUMBER with <, <=, > or >=, as "
            "margin.low>0 or abs(length_rho)<0.3"
        )
    if not math.isfinite(float(match["limit"])):
        raise CriticError(f"--require {text!r}: the limit is not finite; write another number")
    name, bound = match["name"], match["bound"]
    if name not in ALIASES and "/" not in name and name not in ALIASES.values():
        raise _unknown(text, name)
    return Requirement(
        text=text,
        name=ALIASES.get(name, name),
        bound=bound and bound[1:].lower(),
        is_absolute=match["abs"] is not None,
        compare=match["compare"],
        limit=float(match["limit"]),
    )


def check_requirements(
    requirements: Sequence[Requirement],
    evaluation: Evaluation,
    split: str,
    more: Sequence[Number] = (),
) -> list[str]:
    """List the conditions that fail, with the numbers found; `more` are those of a benchmark.

    Raises:
        CriticError: a number has no such name.
    """
    numbers: dict[str, Interval | None] = dict.fromkeys(ALIASES.values())
    numbers |= {number.metric: number.value for number in (*evaluation.numbers(split), *more)}
    for requirement in requirements:
        if requirement.name not in numbers:
            raise _unknown(requirement.text, requirement.name)
    failures = (requirement.failure(numbers) for requirement in requirements)
    return [failure for failure in failures if failure is not None]


def _unknown(text: str, name: str) -> CriticError:
    return CriticError(
        f"--require {text!r}: there is no number {name!r}; known are {', '.join(ALIASES)}, with "
        ".low or .high for a bound of the interval, and the tracked metrics"
    )
