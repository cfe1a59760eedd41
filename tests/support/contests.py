"""Writes Parquet files like those of deepmind/code_contests, and prepares samples from them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests
from featurize.data.prepare.codecontests.selection import TokenLimit
from featurize.data.prepare.prepared import Prepared, Progress
from featurize.data.prepare.settings import CodeContestsSettings, PrepareSettings
from tests.support.row_files import read_rows

PYTHON2, CPP, PYTHON3, JAVA = 1, 2, 3, 4

_TESTS = pa.struct({"input": pa.list_(pa.string()), "output": pa.list_(pa.string())})
_SOLUTIONS = pa.struct({"language": pa.list_(pa.int64()), "solution": pa.list_(pa.string())})
SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "description": pa.string(),
        "public_tests": _TESTS,
        "private_tests": _TESTS,
        "generated_tests": _TESTS,
        "source": pa.int64(),
        "difficulty": pa.int64(),
        "solutions": _SOLUTIONS,
        "incorrect_solutions": _SOLUTIONS,
        "cf_contest_id": pa.int64(),
        "cf_index": pa.string(),
        "cf_points": pa.float32(),
        "cf_rating": pa.int32(),
        "cf_tags": pa.list_(pa.string()),
        "is_description_translated": pa.bool_(),
        "untranslated_description": pa.string(),
        "time_limit": pa.struct({"seconds": pa.int64(), "nanos": pa.int64()}),
        "memory_limit_bytes": pa.int64(),
        "input_file": pa.string(),
        "output_file": pa.string(),
    }
)


def solutions(*programs: tuple[int, str]) -> dict[str, list[Any]]:
    """Programs as (language, text), in the two parallel lists that they are published in."""
    languages, texts = zip(*programs, strict=True) if programs else ((), ())
    return {"language": list(languages), "solution": list(texts)}


def problem(name: str, **columns: Any) -> dict[str, Any]:
    """A Codeforces problem with a correct and an incorrect Python 3 solution; `columns` differ."""
    tests = {"input": ["1"], "output": ["2"]}
    return {
        "name": name,
        "description": f"Solve {name}.",
        "public_tests": tests,
        "source": 2,
        "difficulty": 7,
        "solutions": solutions((PYTHON3, f"right {name}")),
        "incorrect_solutions": solutions((PYTHON3, f"wrong {name}")),
        "cf_rating": 800,
        **columns,
    }


def write_problems(
    folder: Path, split: str, rows: Sequence[dict[str, Any]], *, number: int = 0, total: int = 1
) -> Path:
    """Writes one file under its published name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-{number:05}-of-{total:05}-9c49eeff30aacaa8.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), path, row_group_size=2)
    return path


MIXED = problem(
    "1_A. Mixed",
    solutions=solutions(
        (PYTHON3, "p1"), (CPP, "c1"), (PYTHON3, "p2"), (JAVA, "j1"), (PYTHON2, "o")
    ),
    incorrect_solutions=solutions((CPP, "c2"), (PYTHON3, "p3"), (PYTHON2, "n")),
)


def prepare(
    source: Path | str, out: Path, *, overwrite: bool = False, format: str = "jsonl",
    split_files: tuple[str, ...] = (), limit: TokenLimit | None = None,
    progress: Progress | None = None, seed: int = 0, **settings: Any,
) -> Prepared:  # fmt: skip
    """Runs `prepare codecontests`."""
    contests = CodeContestsSettings(**settings)
    job = CodeContestsJob(
        source=str(source),
        out_dir=out,
        settings=PrepareSettings(seed=seed, output_format=format, codecontests=contests),
        split_files=split_files,
        token_limit=limit,
    )
    return prepare_codecontests(job, overwrite=overwrite, progress=progress)


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
    return read_rows(path)


def left_out(tmp_path: Path, things: str = "samples") -> dict[str, int]:
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    return summary["counts"]["train"][f"{things}_left_out"]


def outputs(rows: list[dict[str, Any]]) -> set[str]:
    return {row["output"] for row in rows}
