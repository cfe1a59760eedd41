"""A language in several spellings is one language, and that is said."""

import logging
from pathlib import Path

import numpy as np
import pytest

from featurize.data.index import DatasetIndex
from featurize.store import FeatureStore
from headtrain.pairs.plan import read_training_data
from headtrain.settings import DataSamplingSettings
from tests.support.tiny_jobs import make_plan, write_rows, write_store


def test_a_language_in_two_spellings_is_one_and_a_warning_counts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows = [
        {"instruction": "Add.", "output": str(n), "metadata": {"language": language}}
        for n, language in enumerate(["Python", "python", "python ", "python", "C", None])
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        index = DatasetIndex.build(path, tmp_path / "cache")
    samples = {s.output: s.language for s in index.read(np.arange(len(index)))}
    assert samples == dict.fromkeys("0123", "python") | {"4": "C", "5": None}
    assert sorted(set(index.table["language"].to_pylist()), key=str) == ["C", None, "python"]
    assert "language 'Python' of 1 samples is taken as 'python'" in caplog.text


def test_outputs_whose_language_is_spelt_in_two_ways_are_paired(tmp_path: Path):
    rows = [
        {
            "instruction": "Add.",
            "output": f"x = {n}",
            "is_correct": language == "Python",
            "problem_id": "p",
            "metadata": {"language": language},
        }
        for n, language in enumerate(["Python", "python", "python "])
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    store = FeatureStore.open(write_store(make_plan(tmp_path, path)))
    data = read_training_data(store, DataSamplingSettings())
    assert len(data.plan.correct) == 2
    assert data.plan.num_possible == 2


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        (["python", "python", "Python3", "py"], {"python"}),
        (["C++", "cpp", "cpp", "CPP", "cxx"], {"cpp"}),
        (["JavaScript", "JavaScript", "js"], {"JavaScript"}),
        (["golang", "go", "go", "Go "], {"go"}),
        (["python", "python2", "python2", "python3", "PY2"], {"python", "python2", "python3"}),
        (["java", "javascript", "c", "cpp"], {"java", "javascript", "c", "cpp"}),
    ],
    ids=lambda names: "-".join(sorted(names)),
)
def test_short_names_of_a_language_are_the_language(
    tmp_path: Path, spellings: list[str], expected: set[str]
):
    rows = [
        {"instruction": "Add.", "output": str(n), "metadata": {"language": language}}
        for n, language in enumerate(spellings)
    ]
    index = DatasetIndex.build(str(write_rows(tmp_path / "a.jsonl", rows)), tmp_path / "cache")
    assert {sample.language for sample in index.read(np.arange(len(index)))} == expected
