"""Settings of the commands `critic prepare ...`."""

import math
from dataclasses import field
from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from featurize.settings import PositiveInt

_STRICT_KEYS = ConfigDict(extra="forbid")

Language: TypeAlias = Literal["python2", "cpp", "python3", "java", "unknown"]


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class PrepareTestsSettings:
    """Settings of `prepare tests`."""

    correct: int = Field(default=3, ge=1)
    """Correct programs per problem."""
    incorrect: int = Field(default=3, ge=1)
    """Incorrect programs per problem."""
    max_rewrites: int = Field(default=4, ge=1)
    """Most rewrites between the reference and a correct program."""
    train_fraction: float = Field(default=0.7, ge=0, le=1)
    """Share of the problems in train.jsonl."""
    valid_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of the problems in valid.jsonl."""
    test_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the problems in test.jsonl; 0: no such file."""
    seed: int = 0
    """Seed of rewrites, mutants, solutions and the split; the same seed gives the same bytes."""
    cpu_seconds: float = Field(default=4.0, gt=0)
    """Limit of CPU time for all tests of a problem; the reference may use a quarter of it."""
    memory_mb: int = Field(default=512, ge=64)
    """Limit of memory for one program."""
    workers: int | None = Field(default=None, ge=1)
    """Programs run at the same time; None: one per core. Does not change the result."""

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


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class CodeContestsSettings:
    """Settings of `prepare codecontests`."""

    languages: tuple[Language, ...] | None = None
    """Languages to take, e.g. [python3, cpp]; None: all."""
    max_tokens: PositiveInt | None = None
    """Most tokens of prompt and output together, by the backbone's tokenizer; None: no limit."""
    max_chars: PositiveInt | None = None
    """Most characters of a solution, which needs no tokenizer; None: no limit."""
    max_solutions: PositiveInt | None = None
    """Most solutions of a problem, language and label, drawn by `seed`; None: all."""
    require_both_labels: bool = True
    """Leave out the solutions of a problem and language that all have the same label."""
    keep_duplicates: bool = False
    """Keep programs that occur again in their problem, even with the other label."""
    difficulty: Literal["label", "cf_rating"] = "label"
    """The content of metadata.difficulty: the published label, or Codeforces' rating."""

    def __post_init__(self) -> None:
        if self.languages is not None and not self.languages:
            raise ValueError("languages [] takes none: name at least one, or null for all")


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class DoctestsSettings:
    """Settings of `prepare doctests` beside those of `prepare tests`."""

    max_chars: PositiveInt | None = 4000
    """Most characters of a function's statement and reference together; None: no limit."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class PrepareSettings(PrepareTestsSettings):
    """The section `prepare`: settings of `prepare tests`, then of the other commands."""

    output_format: Literal["jsonl", "parquet"] = "jsonl"
    """Format written by prepare codecontests, and by prepare columns into a folder."""
    similarity: float = Field(default=0.8, gt=0, le=1)
    """Share of common n-grams from which prepare split keeps two statements together."""
    ngram: PositiveInt = 5
    """Number of tokens in an n-gram."""
    doctests: DoctestsSettings = field(default_factory=DoctestsSettings)
    """Settings of `prepare doctests`."""
    codecontests: CodeContestsSettings = field(default_factory=CodeContestsSettings)
    """Settings of `prepare codecontests`."""
