"""Runs `prepare codecontests` over files that a test wrote, and reads what came out."""

import json
from pathlib import Path
from typing import Any

from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests
from featurize.data.prepare.codecontests.tokens import TokenLimit
from featurize.data.prepare.prepared import Prepared
from featurize.data.prepare.settings import CodeContestsSettings, PrepareSettings
from tests.support.contest_files import (
    CPP,
    JAVA,
    PYTHON2,
    PYTHON3,
    problem,
    solutions,
    write_problems,
)

MIXED = problem(
    "1_A. Mixed",
    solutions=solutions(
        (PYTHON3, "p1"), (CPP, "c1"), (PYTHON3, "p2"), (JAVA, "j1"), (PYTHON2, "o")
    ),
    incorrect_solutions=solutions((CPP, "c2"), (PYTHON3, "p3"), (PYTHON2, "n")),
)


def prepare(
    source: Path | str, out: Path, *, overwrite: bool = False, format: str = "jsonl",
    split_files: tuple[str, ...] = (), limit: TokenLimit | None = None, **settings: Any,
) -> Prepared:  # fmt: skip
    job = CodeContestsJob(
        source=str(source),
        out_dir=out,
        settings=PrepareSettings(
            output_format=format, codecontests=CodeContestsSettings(**settings)
        ),
        split_files=split_files,
        token_limit=limit,
    )
    return prepare_codecontests(job, overwrite=overwrite)


def prepare_rows(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """The samples of one file of problems."""
    write_problems(tmp_path / "in", "train", rows)
    prepared = prepare(tmp_path / "in", tmp_path / "out", **settings)
    counts = prepared.counts["train"]
    written = read(tmp_path / "out/train.jsonl")
    num_published = sum(
        len(row[key]["solution"]) for row in rows for key in ("solutions", "incorrect_solutions")
    )
    # Every problem and every solution is either written or counted.
    assert counts.samples == len(written)
    assert counts.samples + sum(counts.samples_left_out.values()) == num_published
    assert counts.problems == len({row["problem_id"] for row in written})
    assert counts.problems + sum(counts.problems_left_out.values()) == len(rows)
    return written


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_out(tmp_path: Path, things: str = "samples") -> dict[str, int]:
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    return summary["counts"]["train"][f"{things}_left_out"]


def outputs(rows: list[dict[str, Any]]) -> set[str]:
    return {row["output"] for row in rows}
