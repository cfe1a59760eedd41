"""A prepared dataset is made once, and replaces only its own files."""

import json
from pathlib import Path

import pytest

from featurize.data.prepare.columns import ColumnsJob, prepare_columns
from featurize.data.prepare.mapping import ColumnMap
from featurize.data.prepare.prepared import Prepared
from featurize.data.prepare.split import SplitJob, prepare_split
from featurize.errors import CriticError
from tests.support.contests import MIXED, problem, write_problems
from tests.support.contests import prepare as prepare_contests

ROWS = [
    {"instruction": f"Solve {number}.", "output": f"{label} {number}", "is_correct": label}
    for number in range(10)
    for label in (True, False)
]


def prepare(kind: str, folder: Path, *, overwrite: bool = False) -> Prepared:
    """Prepares rows of folder/in into folder/out."""
    source, out = str(folder / "in/train-1.jsonl"), folder / "out"
    if kind == "codecontests":
        return prepare_contests(folder / "in", out, overwrite=overwrite)
    if kind == "columns":
        columns = ColumnMap.parse(())
        job = ColumnsJob(sources=[source], out=out, columns=columns)
        return prepare_columns(job, overwrite=overwrite)
    return prepare_split(SplitJob(sources=[source], out_dir=out, test=0), overwrite=overwrite)


def write_source(folder: Path) -> None:
    write_problems(folder / "in", "train", [MIXED])
    write_problems(folder / "in", "valid", [problem("v")])
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "in/train-1.jsonl").write_text(text)


@pytest.fixture(params=["codecontests", "columns", "split"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    write_source(tmp_path)
    name: str = request.param
    return name


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_finished_dataset_is_not_made_again(kind: str, tmp_path: Path):
    made = prepare(kind, tmp_path)
    before = times(tmp_path / "out")
    found = prepare(kind, tmp_path)
    assert (made.was_up_to_date, found.was_up_to_date) == (False, True)
    assert (found.counts, found.files) == (made.counts, made.files)
    assert times(tmp_path / "out") == before


def test_a_damaged_file_is_made_again(kind: str, tmp_path: Path):
    name = [*prepare(kind, tmp_path).files][-1]
    content = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / name).write_bytes(content[:-10])
    assert not prepare(kind, tmp_path).was_up_to_date
    assert (tmp_path / "out" / name).read_bytes() == content


def test_other_source_files_need_overwrite(kind: str, tmp_path: Path):
    prepare(kind, tmp_path)
    for path in (tmp_path / "in").iterdir():
        path.write_bytes(path.read_bytes() + b"\n")
    if kind == "codecontests":
        write_source(tmp_path)
    with pytest.raises(CriticError, match=r"summary\.json: .* other source files; .*--overwrite"):
        prepare(kind, tmp_path)
    assert not prepare(kind, tmp_path, overwrite=True).was_up_to_date


def test_other_files_are_not_overwritten(kind: str, tmp_path: Path):
    (tmp_path / "out").mkdir()
    for name in ("train.jsonl", "train-1.jsonl"):
        (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(CriticError, match=r"train.*\.jsonl: exists.*--overwrite"):
        prepare(kind, tmp_path)
    (tmp_path / "out/summary.json").write_text('{"mine": 1}')
    with pytest.raises(CriticError, match=rf"summary\.json: not a summary of prepare {kind}"):
        prepare(kind, tmp_path)
    assert (tmp_path / "out/train.jsonl").read_text() == "mine"


def test_other_settings_need_overwrite_which_removes_old_files(tmp_path: Path):
    write_source(tmp_path)
    source, out = tmp_path / "in", tmp_path / "out"
    prepare_contests(source, out, format="parquet")
    with pytest.raises(CriticError, match=r"max_solutions None, not 1; .*--overwrite"):
        prepare_contests(source, out, format="parquet", max_solutions=1)
    prepare_contests(f"{source}/train*.parquet", out, overwrite=True)
    # A glob of the folder finds one dataset.
    assert sorted(path.name for path in out.iterdir()) == ["summary.json", "train.jsonl"]


def test_a_source_is_not_overwritten(tmp_path: Path):
    write_source(tmp_path)
    source = tmp_path / "in/train-1.jsonl"
    job = ColumnsJob(sources=[str(source)], out=source, columns=ColumnMap.parse(()))
    with pytest.raises(CriticError, match=r"train-1\.jsonl: is one of the files read"):
        prepare_columns(job, overwrite=True)
    assert len(source.read_text().splitlines()) == len(ROWS)
