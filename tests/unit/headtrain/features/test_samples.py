from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.samples import read_labelled_samples
from tests.support.synthetic_stores import replace_column, replace_samples, write_store


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "store")


def test_unlabelled_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = [None if place < 5 else bool(place % 2) for place in range(96)]
    samples = read_labelled_samples(write_store(tmp_path / "store", labels=labels))
    assert (len(samples), samples.num_unlabelled) == (91, 5)
    assert set(range(5)).isdisjoint(samples.table_rows.tolist())


def test_a_store_without_labels_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", labels=[None] * 96)
    with pytest.raises(CriticError, match=r"96 samples .*is_correct"):
        read_labelled_samples(store)


def test_the_order_of_the_store_does_not_matter(store: FeatureStore) -> None:
    order = np.random.default_rng(0).permutation(store.samples.num_rows)
    shuffled = replace_samples(store, store.samples.take(pa.array(order)))
    first, second = read_labelled_samples(store), read_labelled_samples(shuffled)
    np.testing.assert_array_equal(first.table_rows, order[second.table_rows])
    np.testing.assert_array_equal(first.problems, second.problems)
    np.testing.assert_array_equal(first.is_correct, second.is_correct)


def test_a_problem_in_two_languages_is_two_problems(store: FeatureStore) -> None:
    languages = [["python", "rust", None][place % 3] for place in range(96)]
    samples = read_labelled_samples(replace_column(store, "language", pa.array(languages)))
    assert len(np.unique(samples.problems)) == 3 * 12
    ids = store.samples["problem_id"].to_pylist()
    groups: dict[int, set[tuple[str, str | None]]] = {}
    for row, code in zip(samples.table_rows, samples.problems, strict=True):
        groups.setdefault(int(code), set()).add((ids[row], languages[row]))
    assert all(len(group) == 1 for group in groups.values())
