"""Writes Parquet files of the schema that deepmind/code_contests has on the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
        "private_tests": tests,
        "generated_tests": tests,
        "source": 2,
        "difficulty": 7,
        "solutions": solutions((PYTHON3, f"right {name}")),
        "incorrect_solutions": solutions((PYTHON3, f"wrong {name}")),
        "cf_contest_id": 1,
        "cf_index": "A",
        "cf_points": 500.0,
        "cf_rating": 800,
        "cf_tags": ["math"],
        "is_description_translated": False,
        "untranslated_description": "",
        "time_limit": None,
        "memory_limit_bytes": 256 << 20,
        "input_file": "",
        "output_file": "",
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
