"""Several bad rows: what each is told, how many are listed, and how all are counted by kind."""

import json
import pickle
from pathlib import Path

import pytest
import typer

from configs.console import reports_errors
from featurize.data import scan
from featurize.data.index import DatasetIndex
from featurize.errors import DataError, kind_of, one_line

GOOD = {"instruction": "a", "output": "b"}
BAD = {
    "'output'": {"instruction": "a"},
    "'is_correct'": GOOD | {"is_correct": 1},
    "the row": [1],
}


def write_bad_rows(folder: Path, *, rounds: int) -> str:
    """Write a good row and one of each kind of bad ones, `rounds` times, then a broken line."""
    lines = [json.dumps(row) for _ in range(rounds) for row in (GOOD, *BAD.values())]
    path = folder / "train.jsonl"
    path.write_text("\n".join([*lines, '{"instruction": ']) + "\n")
    return str(path)


def refusal(path: str, folder: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        DatasetIndex.build(path, folder / "cache")
    return caught.value


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
def test_three_bad_rows_of_a_kind_are_listed_and_all_counted_by_kind(
    tmp_path, monkeypatch, chunk_bytes
):
    path = write_bad_rows(tmp_path, rounds=10)
    monkeypatch.setattr(scan, "CHUNK_BYTES", chunk_bytes)
    details = refusal(path, tmp_path).details
    assert [line.partition(": ")[0] for line in details[:9]] == [
        f"{path}:{number}" for number in range(1, 13) if number % 4 != 1
    ]
    assert details[9:12] == ["... and 22 more", "", "31 bad rows, by remedy:"]
    kinds = [kind_of(line.partition(": ")[2]) for line in details[:3]]
    assert details[12:15] == [f"  10 x {kind}" for kind in kinds]
    assert all(map(str.startswith, kinds, BAD))
    assert details[15].startswith("   1 x ")
    assert details[16:] == [""]


def test_few_bad_rows_are_all_listed(tmp_path):
    path = write_bad_rows(tmp_path, rounds=1)
    details = refusal(path, tmp_path).details
    assert [line.partition(": ")[0] for line in details[:4]] == [
        f"{path}:{number}" for number in (2, 3, 4, 5)
    ]
    assert details[4] == ""
    assert details[5].startswith("4 ")


def test_one_bad_row_is_reported_in_the_message_alone(tmp_path):
    error = refusal(write_bad_rows(tmp_path, rounds=0), tmp_path)
    assert error.details == []
    assert error.total == 1


def test_repeated_ids_are_listed_and_counted(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text((json.dumps(GOOD | {"task_id": "x"}) + "\n") * 3)
    details = refusal(str(path), tmp_path).details
    assert [line.partition(": ")[0] for line in details[:2]] == [f"{path}:2", f"{path}:3"]
    assert details[-2].startswith("  2 x 'task_id': ")


def test_the_list_outlives_a_pickle(tmp_path):
    error = refusal(write_bad_rows(tmp_path, rounds=10), tmp_path)
    assert pickle.loads(pickle.dumps(error)).details == error.details


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (
            "'metadata.language' is [\"a; b\"] (a list); it must be a string",
            "'metadata.language': it must be a string",
        ),
        (
            "not UTF-8 (invalid start byte at byte 12); convert the file",
            "not UTF-8: convert the file",
        ),
        ("something else; mend it", "a row: mend it"),
    ],
)
def test_a_kind_is_whom_a_fault_concerns_and_its_remedy(message, kind):
    assert kind_of(message) == kind


def test_a_file_in_place_of_a_folder_is_called_that(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists") as caught:
        (tmp_path / "file").mkdir(exist_ok=True)
    assert one_line(caught.value) == f"Not a directory: {tmp_path}/file"


def test_a_command_shows_the_list_and_ends_with_one_line_of_error(tmp_path, capsys):
    path = write_bad_rows(tmp_path, rounds=10)

    @reports_errors
    def command(debug: bool = False) -> None:
        DatasetIndex.build(path, tmp_path / "cache")

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(f"{path}:2: 'output' ")
    assert any(line.startswith("  10 x the row: ") for line in shown)
    assert shown[-1].startswith(f"error: {shown[0]} (")
    assert "30" in shown[-1]
