"""A label that would not be read is an error that names the column and the option that reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurize.data.index import DatasetIndex
from featurize.data.prepare.columns import ColumnsJob, prepare_columns
from featurize.data.prepare.mapping import ColumnMap
from featurize.errors import DataError, RowFault
from tests.support.indexed import parse_row, read_samples
from tests.support.row_files import read_rows

PLAIN = {"instruction": "Add.", "output": "a + b"}
UNPAIRED = {"prompt": "Add.", "completion": "a + b"}
CHAT = {"conversations": [{"from": "human", "value": "Add."}, {"from": "gpt", "value": "a + b"}]}


def label_of(row: dict[str, Any]) -> bool | None:
    [sample] = parse_row(row)
    return sample.is_correct


@pytest.mark.parametrize("row", [PLAIN, CHAT, UNPAIRED], ids=["plain", "chat", "unpaired"])
@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("kto_tag", True, "--map is_correct=kto_tag"),
        ("passed", False, "--map is_correct=passed"),
        ("isCorrect", True, "--map is_correct=isCorrect"),
        ("verdict", "AC", "--map is_correct=verdict --correct-values passed,AC"),
        ("result", "passed", "--map is_correct=result --correct-values passed,AC"),
        ("correct", 1, "--map is_correct=correct --correct-values 1"),
        ("pass_rate", 0.4, "--map 'is_correct=pass_rate >= 0.8'"),
        ("failed", True, "--map 'is_correct=failed == false'"),
    ],
)
def test_a_label_that_is_not_read_is_refused(row, name, value, option):
    with pytest.raises(RowFault) as caught:
        parse_row(row | {name: value})
    message = str(caught.value)
    assert message.startswith(f"{name!r} is ")
    assert option in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resolved", True), ("is_resolved", False), ("all_tests_passed", True),
        ("test_status", "failed"), ("testResult", "PASSED"), ("answer_correct", True),
        ("is_answer_correct", False), ("gpt_verdict", "Accepted"), ("judgement", 1),
        ("unit_test_passed", 0), ("reward", True), ("score", False), ("labels", True),
        ("has_bug", True), ("buggy", False), ("unit_tests_failed", True),
        ("status", "Wrong answer on test 3"), ("result", "RUNTIME_ERROR"), ("outcome", "TLE"),
    ],
)  # fmt: skip
def test_labels_under_longer_names_are_refused_too(name: str, value: object):
    with pytest.raises(RowFault, match=f"{name!r} is .* a label that is not read"):
        parse_row(PLAIN | {name: value})


@pytest.mark.parametrize(
    "extras",
    [
        {"num_passed": 1, "tests_passed_rate": 0.5, "pass_count": 1, "http_status": 1},
        {"correct_answer": True, "correct_option": 1, "accepted_solution": "yes"},
        {"is_reasoning_complete": True, "exec_result": "1", "has_image": False},
        {"expected_result": "true", "initial_status": "ok", "error": "no", "accuracy": 1},
    ],
    ids=str,
)
def test_counts_answers_and_other_flags_are_no_labels(extras: dict[str, Any]):
    assert label_of(PLAIN | extras) is None


def test_the_option_for_a_verdict_in_words_names_the_word_that_means_correct():
    with pytest.raises(RowFault, match="--map is_correct=status --correct-values Accepted"):
        parse_row(PLAIN | {"status": "Accepted"})
    with pytest.raises(RowFault, match=r"--map 'is_correct=has_bug == false'"):
        parse_row(PLAIN | {"has_bug": True})


def test_a_label_beside_a_plain_row_is_not_read_as_if_it_were_trls():
    with pytest.raises(RowFault, match=r"'label' is true .* --map is_correct=label"):
        parse_row(PLAIN | {"label": True})


@pytest.mark.parametrize("row", [UNPAIRED, CHAT], ids=["unpaired", "chat"])
@pytest.mark.parametrize("name", ["label", "is_correct"])
@pytest.mark.parametrize("label", [True, False])
def test_an_unpaired_row_takes_its_label_under_both_names(row, name, label):
    assert label_of(row | {name: label}) is label


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (PLAIN | {"is_correct": True, "label": False}, "label"),
        (PLAIN | {"is_correct": False, "passed": 1}, "passed"),
        (PLAIN | {"is_correct": True, "verdict": "wrong answer"}, "verdict"),
        (PLAIN | {"is_correct": True, "failed": True}, "failed"),
        (PLAIN | {"is_correct": True, "verdict": "TIME_LIMIT_EXCEEDED"}, "verdict"),
        (PLAIN | {"is_correct": True, "all_tests_passed": False}, "all_tests_passed"),
        (PLAIN | {"is_correct": False, "is_buggy": False}, "is_buggy"),
        (UNPAIRED | {"label": True, "is_correct": False}, "is_correct"),
    ],
    ids=str,
)
def test_two_labels_that_contradict_are_refused(row, name):
    with pytest.raises(RowFault, match=f"{name!r} is .* but the row's label is"):
        parse_row(row)


@pytest.mark.parametrize(
    "extras",
    [
        {"passed": True, "label": 1, "verdict": "AC"},
        {"label": "python", "pass_rate": 0.9, "failed": False},
        {"status": "published", "result": "42", "correct": "the gold answer"},
    ],
    ids=str,
)
def test_columns_that_agree_with_the_label_or_say_nothing_of_it_do_no_harm(extras):
    assert label_of(PLAIN | {"is_correct": True} | extras) is True


@pytest.mark.parametrize(
    "extras",
    [
        {"label": None, "kto_tag": None, "passed": None},
        {"status": "published", "result": "42", "correct": "the gold answer"},
        {"score": 0.7, "reward": 1.0, "votes": 3, "rating": 5, "tests": [True, False]},
        {"passed": [True, False], "metadata": {"votes": 3}},
    ],
    ids=str,
)
def test_an_unlabelled_row_with_other_columns_stays_unlabelled(extras):
    assert label_of(PLAIN | extras) is None


def test_extras_of_preference_rows_of_published_datasets_do_no_harm():
    row = {"prompt": "Add.", "chosen": "a + b", "rejected": "a - b"}
    extras = {"label": 1, "score_chosen": 8.5, "subset": "hep-python", "chosen_model": "human"}
    assert [sample.is_correct for sample in parse_row(row | extras)] == [True, False]
    with pytest.raises(RowFault, match="'is_correct' is false beside 'chosen'"):
        parse_row(row | {"is_correct": False})


def test_a_label_that_is_not_read_is_found_in_parquet(tmp_path: Path):
    table = pa.Table.from_pylist([PLAIN | {"kto_tag": True, "other": 1}])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet:row 1: 'kto_tag' is true"):
        read_samples(str(tmp_path / "a.parquet"))


def prepare(folder: Path, row: dict[str, Any], *maps: str) -> list[dict[str, Any]]:
    (folder / "in.jsonl").write_text(json.dumps(row) + "\n")
    job = ColumnsJob(
        sources=[str(folder / "in.jsonl")],
        out=folder / "out.jsonl",
        columns=ColumnMap.parse(maps),
    )
    prepare_columns(job)
    return read_rows(folder / "out.jsonl")


@pytest.mark.parametrize("row", [PLAIN, CHAT, UNPAIRED], ids=["plain", "chat", "unpaired"])
def test_the_option_that_the_message_names_reads_the_label(tmp_path: Path, row):
    [sample] = prepare(tmp_path, row | {"kto_tag": False}, "is_correct=kto_tag")
    assert sample["is_correct"] is False
    assert (sample["instruction"], sample["output"]) == ("Add.", "a + b")


def test_a_label_kept_as_metadata_leaves_the_row_unlabelled(tmp_path: Path):
    [sample] = prepare(tmp_path, PLAIN | {"passed": True}, "metadata.passed=passed")
    assert (sample["is_correct"], sample["metadata"]) == (None, {"passed": "true"})


def test_preparing_columns_refuses_a_label_that_is_not_mapped(tmp_path: Path):
    with pytest.raises(DataError, match=r"in\.jsonl:1: 'passed' is true .* is_correct=passed"):
        prepare(tmp_path, PLAIN | {"passed": True})


def test_one_of_two_labels_is_chosen_by_mapping_it(tmp_path: Path):
    row = PLAIN | {"is_correct": True, "label": False}
    [sample] = prepare(tmp_path, row, "is_correct=label")
    assert sample["is_correct"] is False


@pytest.mark.parametrize(
    ("extra", "label"),
    [
        ({"kto_tag": True}, None),
        ({"label": 1}, None),
        ({"is_correct": True, "passed": True}, True),
        ({"is_correct": True, "passed": False}, None),
        ({"is_correct": "yes"}, None),
        ({"is_correct": 1, "verdict": "AC"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("row", [PLAIN, UNPAIRED, CHAT], ids=["plain", "unpaired", "chat"])
def test_without_a_need_of_labels_those_that_are_not_read_are_unknown(tmp_path, row, extra, label):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row | extra) + "\n")
    index = DatasetIndex.build(str(path), tmp_path / "cache", needs_labels=False)
    [sample] = index.read(np.arange(1))
    assert (sample.instruction, sample.output) == ("Add.", "a + b")
    if not (extra == {"label": 1} and row is UNPAIRED):
        assert sample.is_correct is label


def test_the_index_without_labels_is_no_index_for_training(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PLAIN | {"kto_tag": True}) + "\n")
    DatasetIndex.build(str(path), tmp_path / "cache", needs_labels=False)
    with pytest.raises(DataError, match="kto_tag"):
        DatasetIndex.build(str(path), tmp_path / "cache")


def test_scores_of_an_answer_beside_a_preference_are_those_of_the_answer(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PLAIN | {"chosen": "c", "rejected": "r"}) + "\n")
    with pytest.raises(DataError, match=r"'output' is 'a \+ b' .* beside 'chosen'"):
        read_samples(str(path))
    index = DatasetIndex.build(str(path), tmp_path / "cache", needs_labels=False)
    assert [sample.output for sample in index.read(np.arange(len(index)))] == ["a + b"]


def test_faults_that_are_not_of_labels_are_refused_all_the_same(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "Add.", "output": "", "kto_tag": 1}) + "\n")
    with pytest.raises(DataError, match="'output' is empty"):
        DatasetIndex.build(str(path), tmp_path / "cache", needs_labels=False)


def test_both_sides_of_a_pair_are_scored_whatever_its_label(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    row = {"prompt": "Add.", "chosen": "a + b", "rejected": "a - b", "is_correct": True}
    path.write_text(json.dumps(row) + "\n")
    index = DatasetIndex.build(str(path), tmp_path / "cache", needs_labels=False)
    assert sorted(s.output for s in index.read(np.arange(2))) == ["a + b", "a - b"]
