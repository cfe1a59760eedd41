"""Rows of the TRL conventions are taken wherever a dataset is named, from JSONL and Parquet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurize.data.index import DatasetIndex


def user(content: str) -> dict[str, str]:
    return {"content": content, "role": "user"}


def assistant(content: str) -> dict[str, str]:
    return {"content": content, "role": "assistant"}


TEXTS = [
    {"prompt": "Add.", "chosen": "a + b", "rejected": "a - b"},
    {"prompt": "Double.", "chosen": "2 * a", "rejected": "a"},
]
MESSAGES = [
    {
        "prompt": [user(row["prompt"])],
        "chosen": [assistant(row["chosen"])],
        "rejected": [assistant(row["rejected"])],
    }
    for row in TEXTS
]
IMPLICIT = [
    {side: [user(row["prompt"]), assistant(row[side])] for side in ("chosen", "rejected")}
    for row in TEXTS
]
SCORED = [  # as UltraFeedback and the like have it
    {**row, "prompt": TEXTS[number]["prompt"], "score_chosen": 8.5, "messages": row["chosen"]}
    for number, row in enumerate(IMPLICIT)
]
UNPAIRED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in TEXTS
    for side in ("chosen", "rejected")
]
UNPAIRED_MESSAGES = [
    {**row, "prompt": [user(row["prompt"])], "completion": [assistant(row["completion"])]}
    for row in UNPAIRED
]
KINDS: dict[str, list[dict[str, Any]]] = {
    "preference": TEXTS,
    "preference messages": MESSAGES,
    "implicit prompt": IMPLICIT,
    "preference with scores": SCORED,
    "unpaired": UNPAIRED,
    "unpaired messages": UNPAIRED_MESSAGES,
}
EXPECTED = {
    ("Add.", "a + b", True), ("Add.", "a - b", False),
    ("Double.", "2 * a", True), ("Double.", "a", False),
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_conventions_become_samples(tmp_path: Path, kind: str, ending: str):
    path = write(tmp_path / f"in.{ending}", KINDS[kind])
    index = DatasetIndex.build(str(path), tmp_path / "cache")
    samples = index.read(np.arange(len(index)))
    assert {(s.instruction, s.output, s.is_correct) for s in samples} == EXPECTED
    assert (len(index), index.num_problems) == (4, 2)


def test_the_same_rows_have_one_fingerprint_in_every_convention(tmp_path: Path):
    fingerprints = {
        DatasetIndex.build(
            str(write(tmp_path / f"{number}.parquet", rows)), tmp_path / "cache"
        ).content_fingerprint
        for number, rows in enumerate(KINDS.values())
    }
    assert len(fingerprints) == 1


def test_message_lists_in_large_and_dictionary_columns_are_read(tmp_path: Path):
    """As the datasets library and pandas write them."""
    message = pa.struct({"content": pa.large_string(), "role": pa.large_string()})
    schema = pa.schema(
        {
            "prompt": pa.dictionary(pa.int32(), pa.string()),
            "chosen": pa.large_list(message),
            "rejected": pa.large_list(message),
        }
    )
    rows = [{**row, "prompt": text["prompt"]} for row, text in zip(MESSAGES, TEXTS, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "in.parquet")
    index = DatasetIndex.build(str(tmp_path / "in.parquet"), tmp_path / "cache")
    assert {(s.instruction, s.output) for s in index.read(np.arange(4))} == {
        (instruction, output) for instruction, output, _ in EXPECTED
    }
