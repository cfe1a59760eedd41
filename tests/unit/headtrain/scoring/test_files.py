"""Scored files: which row gets which fields, and the bytes that are written."""

import gzip
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from featurize.data.index import DatasetIndex
from featurize.errors import DataError
from headtrain.scoring.files import (
    blank_rows,
    check_output,
    is_scored,
    refuse_existing,
    to_output,
    to_rows,
    write_rows,
)
from tests.support.row_files import read_rows

ROWS = (
    '{"instruction": "Add.", "output": "return 1", "id": 7, "ratio": 1.0, "name": "\\u00e9"}',
    '{"output":"return 2","instruction":"Add.","tags":["a"],"ratio":1e3}',
    '{"instruction": "Sub.", "output": "return 3", "metadata": {"score": 9}, "ratio": null}  ',
)
PREFERENCE = '{"prompt": "Add.", "chosen": "return 4", "rejected": "return 5"}'


def scored(paths: str | Sequence[str], cache: Path, prefix: str = "") -> tuple[Any, pa.Table]:
    """The sources of a dataset, and its rows scored by the last character of their output."""
    index = DatasetIndex.build(paths, cache)
    samples = index.read(np.arange(len(index)))
    values = np.array([float(sample.output[-1]) for sample in samples])
    fields = {"score": values, "rank": np.argsort(np.argsort(values)) + 1}
    return index.sources, to_rows(index.table, fields, prefix)


def write(tmp_path: Path, out: str, *files: Path, prefix: str = "") -> Path:
    path = to_output(str(tmp_path / out))
    sources, rows = scored([str(file) for file in files], tmp_path / "cache", prefix)
    check_output(path, sources, rows)
    assert write_rows(path, sources, rows) == rows.num_rows
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*ROWS[:2], "", ROWS[2]]) + "\n")
    return path


@pytest.fixture
def columns(tmp_path: Path) -> Path:
    table = pa.table(
        {
            "instruction": ["Add.", "Add.", "Sub."],
            "output": ["return 3", "return 1", "return 2"],
            "small": pa.array([1, None, 3], pa.int8()),
            "when": pa.array([0, 1, 2], pa.timestamp("s")),
            "raw": pa.array([b"\xff", b"", b"a"], pa.binary()),
        }
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path)
    return path


def test_lines_keep_their_bytes_and_get_the_fields(tmp_path: Path, lines: Path) -> None:
    out = write(tmp_path, "out.jsonl", lines).read_text().splitlines()
    assert [line.partition(',"score"')[0] + "}" for line in out] == [row.strip() for row in ROWS]
    assert [json.loads(line)["score"] for line in out] == [1.0, 2.0, 3.0]
    assert [json.loads(line)["rank"] for line in out] == [1, 2, 3]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_any_compression_is_read_and_written(tmp_path: Path, lines: Path, ending: str) -> None:
    plain = write(tmp_path, "plain.jsonl", lines).read_bytes()
    packed = tmp_path / f"packed{ending}"
    content = lines.read_bytes()
    if ending == ".jsonl.gz":
        content = gzip.compress(content)
    elif ending == ".jsonl.zst":
        content = zstandard.compress(content)
    packed.write_bytes(content)
    written = write(tmp_path, f"out{ending}", packed).read_bytes()
    if ending == ".jsonl.gz":
        written = gzip.decompress(written)
    elif ending == ".jsonl.zst":
        written = zstandard.ZstdDecompressor().decompressobj().decompress(written)
    assert written == plain


def test_columns_of_parquet_keep_their_types_and_values(tmp_path: Path, columns: Path) -> None:
    out = pq.read_table(write(tmp_path, "out.parquet", columns))
    before = pq.read_table(columns)
    assert out.select(before.column_names).equals(before)
    assert out["score"].to_pylist() == [3.0, 1.0, 2.0]
    assert out.schema.field("rank").type == pa.int64()


def test_lines_become_parquet_with_a_type_for_every_field(tmp_path: Path, lines: Path) -> None:
    out = pq.read_table(write(tmp_path, "out.parquet", lines))
    assert out["output"].to_pylist() == ["return 1", "return 2", "return 3"]
    assert out["ratio"].to_pylist() == [1.0, 1000.0, None]
    assert out["tags"].to_pylist() == [None, ["a"], None]
    assert out["score"].to_pylist() == [1.0, 2.0, 3.0]


def test_parquet_becomes_lines_with_all_its_columns(tmp_path: Path, columns: Path) -> None:
    table = pq.read_table(columns).drop(["raw"])
    pq.write_table(table, columns)
    out = read_rows(write(tmp_path, "out.jsonl", columns))
    assert [row["small"] for row in out] == [1, None, 3]
    assert [row["score"] for row in out] == [3.0, 1.0, 2.0]
    assert "when" in out[0]


def test_several_files_come_in_their_order(tmp_path: Path, lines: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"instruction": "Mul.", "output": "return 0"}')  # no line end
    out = read_rows(write(tmp_path, "out.jsonl", lines, other))
    assert [row["score"] for row in out] == [1.0, 2.0, 3.0, 0.0]
    backwards = read_rows(write(tmp_path, "back.jsonl", other, lines))
    assert [row["score"] for row in backwards] == [0.0, 1.0, 2.0, 3.0]


def test_a_preference_row_gets_the_fields_of_both_sides(tmp_path: Path, lines: Path) -> None:
    lines.write_text(f"{PREFERENCE}\n{ROWS[0]}\n")
    pair, plain = read_rows(write(tmp_path, "out.jsonl", lines))
    assert (pair["chosen_score"], pair["rejected_score"]) == (4.0, 5.0)
    assert pair["chosen_rank"] == 2
    assert "score" not in pair
    assert plain["score"] == 1.0
    table = pq.read_table(write(tmp_path, "out.parquet", lines))
    assert table["chosen_score"].to_pylist() == [4.0, None]
    assert table["score"].to_pylist() == [None, 1.0]


@pytest.mark.parametrize("row", [0, 2])
def test_a_field_that_is_there_is_never_replaced(tmp_path: Path, lines: Path, row: int) -> None:
    taken: list[dict[str, Any]] = [json.loads(line) for line in ROWS]
    taken[row]["rank"] = "mine"
    lines.write_text("".join(json.dumps(one) + "\n" for one in taken))
    with pytest.raises(DataError, match=rf"rows\.jsonl:{row + 1}: .*'rank'.*--prefix critic_"):
        write(tmp_path, "out.jsonl", lines)
    assert not (tmp_path / "out.jsonl").exists()
    out = read_rows(write(tmp_path, "out.jsonl", lines, prefix="critic_"))
    assert out[row]["rank"] == "mine"
    assert [one["critic_rank"] for one in out] == [1, 2, 3]


def test_the_file_itself_is_not_overwritten_under_any_name(tmp_path: Path, lines: Path) -> None:
    os.link(lines, tmp_path / "link.jsonl")
    before = lines.read_bytes()
    for name in ("rows.jsonl", "link.jsonl"):
        with pytest.raises(DataError, match="is the file that is scored"):
            write(tmp_path, name, lines)
    assert lines.read_bytes() == before


FIELDS = {"score": 1.0, "probability": 0.5, "rank": 1}


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_what_the_command_wrote_is_known_and_any_other_content_refused(
    tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"out{ending}"

    def write_file(row: dict[str, Any]) -> None:
        if ending == ".parquet":
            pq.write_table(pa.Table.from_pylist([row]), out)
        else:
            line = json.dumps(row).encode() + b"\n"
            out.write_bytes(gzip.compress(line) if ending == ".jsonl.gz" else line)

    for prefix, name in (("critic_", "critic_"), ("", ""), ("", "chosen_")):
        write_file({"output": "x", **{f"{name}{field}": value for field, value in FIELDS.items()}})
        assert is_scored(out, prefix)
    write_file({"output": "x", "score": 1.0})
    assert not is_scored(out, "")
    with pytest.raises(DataError, match=rf"out{re.escape(ending)}' exists .*--overwrite"):
        refuse_existing(out)
    for content in (b"", None):
        out.unlink() if content is None else out.write_bytes(content)
        assert not is_scored(out, "")
        refuse_existing(out)


@pytest.mark.parametrize("line", ["7", "null", '[{"score": 1}]', '"score"', "no JSON"])
def test_a_file_of_something_else_than_rows_is_not_a_result(tmp_path: Path, line: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(f"{line}\n")
    assert not is_scored(out, "")


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("s3://bucket/x.jsonl", r"'s3://bucket/x\.jsonl' is a URI"),
        ("out.csv", r"'out\.csv' has an unknown ending; known are \.jsonl"),
        ("folder.jsonl", "is a folder"),
        ("file.txt/x.jsonl", r"below .*file\.txt, which is not a folder"),
        ("locked/deep/x.jsonl", r"locked is not writable"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "file.txt").touch()
    # The superuser, as whom tests may run, can write anywhere.
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "locked")
    with pytest.raises(DataError, match=told) as caught:
        to_output(out)
    assert "\n" not in str(caught.value)
    assert to_output("new/folder/x.jsonl") == Path("new/folder/x.jsonl")


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 1, 0], [0]])
def test_columns_that_change_while_they_are_scored_are_refused(
    tmp_path: Path, columns: Path, rows: list[int]
) -> None:
    sources, fields = scored(str(columns), tmp_path / "cache")
    pq.write_table(pq.read_table(columns).take(rows), columns)
    os.utime(columns, ns=(1, 1))  # as some seconds later
    with pytest.raises(DataError, match=r"rows\.parquet: has changed"):
        write_rows(tmp_path / "out.parquet", sources, fields)
    assert not (tmp_path / "out.parquet").exists()


def test_a_line_that_is_removed_while_it_is_scored_is_refused(tmp_path: Path, lines: Path) -> None:
    sources, fields = scored(str(lines), tmp_path / "cache")
    lines.write_text(ROWS[0] + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl: "):
        write_rows(tmp_path / "out.jsonl", sources, fields)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_more_rows_than_scores_are_refused(tmp_path: Path, columns: Path, out: str) -> None:
    pq.write_table(pq.read_table(columns).drop(["raw"]), columns)
    sources, fields = scored(str(columns), tmp_path / "cache")
    with pytest.raises(DataError, match=r"rows\.parquet: "):
        write_rows(tmp_path / out, sources, fields.slice(0, 2))
    assert not (tmp_path / out).exists()


def check(out: str, folder: Path, *files: Path) -> None:
    """What is checked before any features are computed."""
    index = DatasetIndex.build([str(file) for file in files], folder / "cache")
    path = to_output(str(folder / out))
    check_output(path, index.sources, blank_rows(index.table, ["score", "rank"], ""))


def test_a_column_that_is_only_copied_is_checked_before_any_work(
    tmp_path: Path, columns: Path
) -> None:
    with pytest.raises(DataError, match=r"rows\.parquet:row 1: 'raw' .*\.parquet file"):
        check("out.jsonl", tmp_path, columns)
    check("out.parquet", tmp_path, columns)


def test_types_that_mix_are_refused_before_any_work_and_by_name(
    tmp_path: Path, lines: Path
) -> None:
    row = {"instruction": "Add.", "output": "2", "id": "seven"}
    lines.write_text(f"{ROWS[0]}\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl: .*'?id'?.*write \.jsonl"):
        check("out.parquet", tmp_path, lines)
    lines.write_text(f"{ROWS[0]}\n{json.dumps(row | {'id': [1]})}\n")
    with pytest.raises(DataError, match=r"'id'.*write \.jsonl"):
        check("out.parquet", tmp_path, lines)


def test_files_of_other_columns_are_refused_before_any_work(tmp_path: Path, columns: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(columns).drop(["when"]), other)
    with pytest.raises(DataError, match=r"other columns.*write \.jsonl"):
        check("out.parquet", tmp_path, columns, other)


@pytest.mark.parametrize("value", ["1180591620717411303425", '"\\ud800"', '{"a": ["\\udc00"]}'])
def test_values_that_parquet_cannot_hold_are_refused_before_any_work_and_by_name(
    tmp_path: Path, value: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Add.", "output": "2", "extra": ' + value + "}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl: .*'extra'.*write \.jsonl"):
        check("out.parquet", tmp_path, path)
    check("out.jsonl", tmp_path, path)
