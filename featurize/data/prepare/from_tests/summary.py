"""The summary of a dataset made from tests, and the files that it describes."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featurize.data.prepare.prepared import SUMMARY_FILE, Row, refuse_other_recipe
from featurize.errors import CriticError
from featurize.io.files import atomic_path, write_json

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSummary:
    """Accounts for every problem read and every program run."""

    problems: int
    complete_problems: int  # with the number of correct and incorrect programs asked for
    short_problems: list[str]  # with fewer of both
    refused_problems: dict[str, list[str]]  # reason -> problem ids
    candidates: int  # programs run
    passed: int
    wrong: int
    crashed: int
    timed_out: int
    duplicates: int  # made again, so not run
    mean_output_chars: dict[str, float]  # correct, incorrect
    longer_is_correct: float | None  # accuracy over pairs within a problem, ties count half
    recipe: dict[str, Any]  # everything that decides the content: settings, seed, source, versions
    # Functions that gave no problem, by reason, and those that did; only of prepare doctests.
    functions: dict[str, int] = field(default_factory=dict)
    # Problems whose tests cannot run in a process apart from the program's.
    together_problems: list[str] = field(default_factory=list)
    samples: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> counts of each kind
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256
    was_up_to_date: bool = False  # an earlier run had written all of it; not in the file

    def to_json(self) -> dict[str, Any]:
        """Get the content of summary.json."""
        content = asdict(self)
        del content["was_up_to_date"]
        if not self.functions:
            del content["functions"]
        return content

    def describe(self) -> dict[str, Any]:
        """List the rows of a table."""
        rows: dict[str, Any] = {f"functions: {name}": n for name, n in self.functions.items()}
        rows |= {
            "problems read": self.problems,
            "complete": self.complete_problems,
            "with fewer programs": len(self.short_problems),
            "left out": sum(map(len, self.refused_problems.values())),
            "tests in the program's process": len(self.together_problems),
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


def read_finished(out_dir: Path, recipe: Mapping[str, Any]) -> PrepareSummary | None:
    """Read the summary of a complete dataset; None if the dataset has to be made.

    Raises:
        CriticError: the folder has a dataset of another recipe.
    """
    path = out_dir / SUMMARY_FILE
    try:
        summary = PrepareSummary(**json.loads(path.read_bytes()), was_up_to_date=True)
        refuse_other_recipe(path, summary.recipe, recipe)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError):
        raise CriticError(
            f"{path}: not a summary of prepared tests; choose another --out or give --overwrite"
        ) from None
    is_whole = all(_digest_file(out_dir / name) == digest for name, digest in summary.files.items())
    return summary if is_whole else None


def _digest_file(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def write_dataset(
    out_dir: Path, rows: Mapping[str, Sequence[Row]], summary: PrepareSummary
) -> PrepareSummary:
    """Write the rows of each split, then the summary with their counts and checksums."""
    out_dir.mkdir(parents=True, exist_ok=True)
    # Until the new summary is written, the folder has no finished dataset.
    (out_dir / SUMMARY_FILE).unlink(missing_ok=True)
    files: dict[str, str] = {}
    for split in SPLITS:
        path = out_dir / f"{split}.jsonl"
        if split not in rows:
            path.unlink(missing_ok=True)
            continue
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split]]
        content = "".join(lines).encode()
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        files[path.name] = hashlib.sha256(content).hexdigest()
    samples = {split: _count(chosen) for split, chosen in rows.items()}
    summary = replace(summary, samples=samples, files=files)
    write_json(out_dir / SUMMARY_FILE, summary.to_json())
    return summary


def _count(rows: Sequence[Row]) -> dict[str, int]:
    labels = Counter(row["is_correct"] for row in rows)
    problems = len({row["problem_id"] for row in rows})
    return {"problems": problems, "correct": labels[True], "incorrect": labels[False]}


def mean_output_chars(rows: Sequence[Row]) -> dict[str, float]:
    """Compute the mean length of the outputs of each label, in characters."""
    means: dict[str, float] = {}
    for name, label in (("correct", True), ("incorrect", False)):
        lengths = [len(row["output"]) for row in rows if row["is_correct"] is label]
        means[name] = round(sum(lengths) / len(lengths), 2) if lengths else 0.0
    return means


def longer_is_correct(rows: Sequence[Row]) -> float | None:
    """Compute how often the correct output of a pair is the longer one; None without pairs.

    If it is far from 0.5, a critic could score well by length alone.
    """
    lengths: dict[str, dict[bool, list[int]]] = {}
    for row in rows:
        of_problem = lengths.setdefault(row["problem_id"], {True: [], False: []})
        of_problem[row["is_correct"]].append(len(row["output"]))
    scores = [
        0.5 if correct == incorrect else float(correct > incorrect)
        for of_problem in lengths.values()
        for correct, incorrect in itertools.product(of_problem[True], of_problem[False])
    ]
    return round(sum(scores) / len(scores), 4) if scores else None
