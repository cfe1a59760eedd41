"""What `critic prepare tests` can be told: how many samples, how they are split, which limits."""

import math

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PrepareTestsSettings:
    """How a dataset is made from problems with unit tests."""

    correct: int = Field(default=3, ge=1)
    """Correct programs a problem."""
    incorrect: int = Field(default=3, ge=1)
    """Incorrect programs a problem."""
    max_rewrites: int = Field(default=4, ge=1)
    """The most rewrites between the reference and a correct program."""
    train_fraction: float = Field(default=0.7, ge=0, le=1)
    """Share of the problems that go to train.jsonl."""
    valid_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of the problems that go to valid.jsonl."""
    test_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the problems that go to test.jsonl; 0 writes no such file."""
    seed: int = 0
    """Draws rewrites, mutants and the split; the same seed gives the same bytes."""
    cpu_seconds: float = Field(default=4.0, gt=0)
    """CPU time a program may take for all tests of its problem; the reference, a quarter of it."""
    memory_mb: int = Field(default=512, ge=64)
    """Memory one program may take."""
    workers: int | None = Field(default=None, ge=1)
    """Programs run at a time; None: one a core. Changes the time only, never the result."""

    def __post_init__(self) -> None:
        total = math.fsum(self.fractions.values())
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(
                f"train_fraction, valid_fraction and test_fraction add up to {total:g}: "
                "change one of them so that they add up to 1"
            )

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the problems by split."""
        return {
            "train": self.train_fraction,
            "valid": self.valid_fraction,
            "test": self.test_fraction,
        }
