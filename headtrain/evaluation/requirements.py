"""Requirements of a release: conditions on the numbers of an evaluation, as `margin>0`."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featurize.errors import CriticError
from headtrain.evaluation.numbers import Number
from headtrain.evaluation.results import Evaluation
from headtrain.metrics.bootstrap import Interval

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
    for number in (*evaluation.numbers(split), *more):
        if number.metric is not None:
            numbers[number.metric] = number.value
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
