"""What is known of the samples of a split beside their labels and scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurize.arrays import Ints, Strings


@dataclass(frozen=True, kw_only=True, eq=False)
class NearPairs:
    """Pairs of correct and incorrect outputs that a small edit makes of each other."""

    correct: Ints
    """Place of each pair's correct sample, [pairs]."""

    incorrect: Ints
    """Place of each pair's incorrect sample, [pairs]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleFacts:
    """Facts by which pairs are told apart; every column has a row a sample."""

    attributes: Mapping[str, Strings] = field(default_factory=dict)
    """difficulty, language, source: text or None."""

    outputs: Ints | None = None
    """Equal codes are equal outputs."""

    near: NearPairs | None = None

    left_out: Mapping[str, str] = field(default_factory=dict)
    """What could not be found out, and why."""
