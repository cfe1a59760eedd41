"""Learning curves: accuracy rises with the number of examples towards a ceiling, by a power law."""

from dataclasses import dataclass

import numpy as np

from featurize.arrays import Floats

EXPONENTS = np.geomspace(0.05, 2.0, 40)
"""The exponents tried; for each, ceiling and scale have a closed form."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerLaws:
    """accuracy(n) = ceiling - scale * (n / reference)^-exponent, for each of `rounds` curves."""

    ceiling: Floats  # [rounds], at most 1
    scale: Floats  # [rounds], at least 0; 0 is a curve that does not rise
    exponent: Floats  # [rounds]
    reference: float

    def predict(self, size: float) -> Floats:
        """Return the accuracy at a size, [rounds]."""
        return np.asarray(self.ceiling - self.scale * (size / self.reference) ** -self.exponent)


def fit_power_laws(sizes: Floats, accuracies: Floats) -> PowerLaws:
    """Fit a power law to each curve by least squares.

    Args:
        sizes: [levels] ascending and positive, at least 3.
        accuracies: [rounds, levels]; a curve with NaN gets a law of NaN.

    Raises:
        ValueError: fewer than three different sizes, which cannot tell ceiling from exponent.
    """
    if len(np.unique(sizes)) < 3:
        raise ValueError(f"a power law needs 3 different sizes, there are {len(np.unique(sizes))}")
    reference = float(sizes[-1])
    tried = [_fit_line((sizes / reference) ** -exponent, accuracies) for exponent in EXPONENTS]
    errors, ceilings, scales = (np.stack(part) for part in zip(*tried, strict=True))
    best, rounds = errors.argmin(axis=0), np.arange(len(accuracies))
    return PowerLaws(
        ceiling=ceilings[best, rounds],
        scale=scales[best, rounds],
        exponent=EXPONENTS[best],
        reference=reference,
    )


def _fit_line(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit y = ceiling - scale * x with ceiling <= 1 and scale >= 0: error, ceiling and scale."""
    deviation = x - x.mean()
    scale = np.maximum(0.0, -(y @ deviation) / (deviation @ deviation))
    ceiling = y.mean(axis=1) + scale * x.mean()
    below_one = np.maximum(0.0, ((1.0 - y) @ x) / (x @ x))  # the scale if the ceiling is 1
    scale = np.where(ceiling > 1.0, below_one, scale)
    ceiling = np.minimum(ceiling, 1.0)
    error = np.square(ceiling[:, None] - scale[:, None] * x - y).sum(axis=1)
    return error, ceiling, scale
