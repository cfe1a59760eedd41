"""Every file format gives the same samples; globs, endings and damaged files."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from featurize.errors import DataError
from tests.support.indexed import read_samples

ROWS = [
    {
        "instruction": f"Task {n // 3}: größer\u2028als\n",
        "input": "" if n % 2 else "\u00e9",
        "output": f"print({n})\r\n",
        "is_correct": [True, False, None][n % 3],
        "problem_id": f"p{n // 3}",
        "task_id": f"t{n}",
        "metadata": {"language": "py", "difficulty": n, "votes": None},
    }
    for n in range(10)
]
LINES = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def write_rows(folder: Path, suffix: str) -> str:
    path = folder / f"train{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=4)
    elif suffix == ".jsonl.gz":
        path.write_bytes(gzip.compress(LINES))
    elif suffix == ".jsonl.zst":
        frames = [zstandard.compress(part) for part in (LINES[:300], LINES[300:])]
        path.write_bytes(b"".join(frames))
    else:
        path.write_bytes(LINES)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_format_gives_the_same_samples(tmp_path, suffix):
    path = write_rows(tmp_path, suffix)
    samples = read_samples(path)
    assert [
        {
            "instruction": s.instruction,
            "input": s.input,
            "output": s.output,
            "is_correct": s.is_correct,
            "problem_id": s.problem_id,
            "task_id": s.task_id,
            "metadata": {"language": s.language, "difficulty": int(s.difficulty), "votes": None},
        }
        for s in samples
    ] == ROWS
    row = "row " if suffix == ".parquet" else ""
    assert [s.location for s in samples] == [f"{path}:{row}{n}" for n in range(1, 11)]


def test_globs_are_read_in_sorted_order_and_each_file_once(tmp_path):
    for name in ("b", "a", "c"):
        row = {"instruction": name, "output": "x"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    paths = [str(tmp_path / "c.jsonl"), str(tmp_path / "*.jsonl")]
    assert [s.instruction for s in read_samples(paths)] == ["c", "a", "b"]


def test_brackets_in_the_name_of_an_existing_file_are_not_a_glob(tmp_path):
    path = tmp_path / "train[1].jsonl"
    path.write_bytes(LINES)
    assert len(read_samples(str(path))) == 10


def test_an_empty_path_is_refused():
    with pytest.raises(DataError, match="'' names no dataset file"):
        read_samples("")


def test_a_glob_without_a_match_is_refused(tmp_path):
    pattern = str(tmp_path / "*.jsonl")
    with pytest.raises(DataError) as caught:
        read_samples(pattern)
    assert str(caught.value).startswith(f"{pattern!r} matches no file; check the path")


def test_no_path_at_all_is_refused():
    with pytest.raises(DataError, match="no dataset file is given"):
        read_samples([])


def test_a_folder_is_refused_with_a_glob_for_it(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; name a file or a glob such as '.*/\*'"):
        read_samples(str(tmp_path))


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a,b\n")
    with pytest.raises(DataError, match=r"train\.csv' has an unknown ending; known are \.jsonl, "):
        read_samples(str(path))


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_files_without_rows_are_refused(tmp_path, content):
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        Path(path).write_text(content)
    with pytest.raises(DataError) as caught:
        read_samples(paths)
    expected = f"{paths[0]} and 1 more: holds no rows; the dataset needs at least one"
    assert str(caught.value) == expected


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_truncated_file_is_refused_and_not_read_in_part(tmp_path, suffix):
    path = Path(write_rows(tmp_path, suffix))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError) as caught:
        read_samples(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be ")
    assert len(message.splitlines()) == 1


def test_a_bad_row_of_a_parquet_file_is_named_by_its_number(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"instruction": ["a", "b"], "output": ["x", None]}), path)
    with pytest.raises(DataError) as caught:
        read_samples(str(path))
    assert str(caught.value).startswith(f"{path}:row 2: 'output' is null")


def test_a_parquet_file_without_the_program_column_is_refused_with_a_suggestion(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"instruction": ["a"], "solution": ["x"]}), path)
    with pytest.raises(DataError, match=r"row 1: 'output' is missing; .* \(rename 'solution'\?\)"):
        read_samples(str(path))


def test_text_stored_as_bytes_in_parquet_is_read_if_it_is_utf8(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"instruction": ["a"], "output": ["größer".encode()]}), path)
    assert read_samples(str(path))[0].output == "größer"
    pq.write_table(pa.table({"instruction": ["a"], "output": [b"\xff\xfe"]}), path)
    with pytest.raises(DataError, match=r"a\.parquet:row 1: 'output' holds bytes that .* UTF-8"):
        read_samples(str(path))


def test_messages_in_parquet_are_read_as_preferences(tmp_path):
    def talk(answer):
        return [{"role": "user", "content": "Add."}, {"role": "assistant", "content": answer}]

    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"chosen": talk("a"), "rejected": talk("b")}]), path)
    assert [(s.instruction, s.output) for s in read_samples(str(path))] == [
        ("Add.", "a"),
        ("Add.", "b"),
    ]
