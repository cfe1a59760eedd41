"""The judgement of a sample: the head's value, and what it means by the head's calibration."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from featurize.errors import CriticError, shorten
from headtrain.scoring.along import Along

Scale = Literal["logit", "probability", "value"]
"""The number that a reward is: calibrated log-odds, their probability, or the head's value."""


def to_scale(name: str) -> Scale:
    """Check the name of a scale.

    Raises:
        CriticError: there is none of that name.
    """
    scales: tuple[Scale, ...] = get_args(Scale)
    for scale in scales:
        if scale == name:
            return scale
    raise CriticError(f"--scale is {shorten(name)}; it must be one of {', '.join(scales)}")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The judgement of a sample; every number is finite."""

    value: float
    logit: float | None
    """Calibrated log-odds; None if the head has no calibration."""
    probability: float | None
    spread: float | None
    num_tokens: int
    is_truncated: bool
    along: Along | None = None
    """Values of its prefixes, if they were wanted."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            CriticError: one is NaN or inf.
        """
        along = self.along.values if self.along else ()
        numbers = (self.value, self.logit, self.probability, self.spread, *along)
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise CriticError(f"the judgement is not finite: {numbers}")

    def on_scale(self, scale: Scale) -> float:
        """Return the reward.

        Raises:
            CriticError: the head has no calibration, and the scale needs one.
        """
        number = {"value": self.value, "logit": self.logit, "probability": self.probability}[scale]
        if number is None:
            raise CriticError(
                f"the head has no calibration, so there is no {scale}; use the scale 'value', or"
                " take best or final of a finished run"
            )
        return number
