"""What a prepared dataset holds and how it came about, kept beside it as summary.json."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSummary:
    """Accounts for every problem read and every program run."""

    problems: int
    complete_problems: int  # with as many correct and incorrect programs as asked for
    short_problems: tuple[str, ...]  # with fewer of both
    refused_problems: dict[str, tuple[str, ...]]  # reason -> problem ids
    candidates: int  # programs run
    passed: int
    wrong: int
    crashed: int
    timed_out: int
    duplicates: int  # made a second time, so not run again
    mean_output_chars: dict[str, float]  # correct, incorrect
    longer_is_correct: float | None  # accuracy over pairs of one problem, a tie counts half
    recipe: dict[str, Any]  # all that decides the content: parameters, seed, source, versions
    samples: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> counts of each kind
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256
    was_up_to_date: bool = False  # nothing was done: the dataset was there already

    def to_json(self) -> dict[str, Any]:
        """What summary.json holds; whether it was up to date is of the call, not of the data."""
        content = asdict(self)
        del content["was_up_to_date"]
        return content

    def describe(self) -> dict[str, Any]:
        """The lines of the table shown at the end."""
        rows: dict[str, Any] = {
            "problems read": self.problems,
            "complete": self.complete_problems,
            "with fewer programs": len(self.short_problems),
            "left out": sum(map(len, self.refused_problems.values())),
            "programs run": self.candidates,
            "passed": self.passed,
            "wrong result": self.wrong,
            "crashed": self.crashed,
            "out of time": self.timed_out,
            "longer is correct": self.longer_is_correct,
        }
        for split, counts in self.samples.items():
            rows[f"in {split}"] = ", ".join(f"{number} {kind}" for kind, number in counts.items())
        return rows

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "PrepareSummary":
        """The summary of a dataset that lies there already."""
        refused = {reason: tuple(ids) for reason, ids in content["refused_problems"].items()}
        lists = {"short_problems": tuple(content["short_problems"]), "refused_problems": refused}
        return cls(**{**content, **lists}, was_up_to_date=True)


def mean_output_chars(rows: Sequence[Row]) -> dict[str, float]:
    """Mean length of the outputs of each label, in characters."""
    means: dict[str, float] = {}
    for name, label in (("correct", True), ("incorrect", False)):
        lengths = [len(row["output"]) for row in rows if row["is_correct"] is label]
        means[name] = round(sum(lengths) / len(lengths), 2) if lengths else 0.0
    return means


def longer_is_correct(rows: Sequence[Row]) -> float | None:
    """How often the correct output of a pair is the longer one; None without pairs.

    Far from 0.5, a judge could score well by length alone.
    """
    scores: list[float] = []
    by_problem = itertools.groupby(
        sorted(rows, key=lambda row: str(row["problem_id"])), key=lambda row: row["problem_id"]
    )
    for _, group in by_problem:
        lengths: dict[bool, list[int]] = {True: [], False: []}
        for row in group:
            lengths[row["is_correct"]].append(len(row["output"]))
        for correct, incorrect in itertools.product(lengths[True], lengths[False]):
            scores.append(0.5 if correct == incorrect else float(correct > incorrect))
    return round(sum(scores) / len(scores), 4) if scores else None


def count_samples(rows: Sequence[Row]) -> dict[str, int]:
    """Problems, correct and incorrect samples of one split."""
    labels = Counter(row["is_correct"] for row in rows)
    problems = len({row["problem_id"] for row in rows})
    return {"problems": problems, "correct": labels[True], "incorrect": labels[False]}
