"""Plans over a table, over a store, and over a store that was made for a plan."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurize.store import FeatureStore
from headtrain.pairs.plan import pair_settings, plan_pairs, plan_training, read_training_data
from headtrain.pairs.rows import labelled_problems
from headtrain.pairs.sampler import PairError
from headtrain.settings import DataSamplingSettings, PairwiseSettings
from tests.support import synthetic_stores
from tests.support.pair_tables import make_table, settings
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store


def problems_of(table: pa.Table, rows: np.ndarray) -> Counter[str]:
    return Counter(table["problem_id"].take(pa.array(rows)).to_pylist())


def test_pairs_of_one_author_never_pair_two() -> None:
    table = make_table()
    authors = pa.array([("a", "b", None)[row // 2 % 3] for row in range(len(table))], pa.string())
    authored = table.append_column("author", authors)
    plan = plan_pairs(authored, settings(10**6, match=["author"]))
    names = np.array(authors.to_pylist(), object)
    assert (names[plan.correct] == names[plan.incorrect]).all()
    assert not any(name is None for name in names[plan.correct])  # unknown is not one author
    # a: samples 0 1 6 7 of a problem, 0 1 are C and 6 7 Python; b likewise
    assert plan.num_possible == 4 * 2 * 2
    with pytest.raises(PairError, match=r"metadata\.author"):
        plan_pairs(table, settings(match=["author"]))


def test_to_match_lengths_is_the_older_setting_by_another_name() -> None:
    older, newer = settings(length_matched=True), settings(match=["length"])
    assert pair_settings(older) == pair_settings(newer)
    first, second = (plan_pairs(make_table(), one) for one in (older, newer))
    assert first.correct.tolist() == second.correct.tolist()


def test_difficulties_are_taken_by_name_or_by_weight() -> None:
    table = make_table()
    easy = plan_pairs(table, settings(10**6, difficulties=["easy"]))
    assert set(problems_of(table, easy.correct)) == {"p0", "p2"}
    assert easy.num_left_out == 24
    weighted = plan_pairs(table, settings(12, difficulties={"easy": 1.0, "hard": 0.5}))
    assert problems_of(table, weighted.correct) == {"p0": 4, "p1": 2, "p2": 4, "p3": 2}
    none = plan_pairs(table, settings(10**6, difficulties={"easy": 1.0, "hard": 0}))
    assert set(problems_of(table, none.correct)) == {"p0", "p2"}


def test_a_warning_names_a_difficulty_without_samples(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan_pairs(make_table(), settings(difficulties={"easy": 1, "hrd": 1}))
    assert "no sample is 'hrd'; there are easy, hard" in caplog.text


def test_excluded_problems_give_no_pair(tmp_path: Path) -> None:
    table = make_table()
    (tmp_path / "ids.txt").write_text("p3\n\n  p1 \n")
    for names in (["p1", "p3"], str(tmp_path / "ids.txt")):
        plan = plan_training(table, settings(10**6, exclude_problems=names)).pairs
        assert set(problems_of(table, plan.correct)) == {"p0", "p2"}
        assert plan.num_left_out == 24


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(PairError, match=r"all 48 labelled samples.*medium.*allow more"):
        plan_pairs(make_table(), settings(difficulties=["medium"]))
    with pytest.raises(PairError, match=r"all 48 labelled samples.*4 excluded"):
        plan_pairs(make_table(), settings(), ["p0", "p1", "p2", "p3"])


def test_the_encoding_of_the_strings_does_not_matter() -> None:
    table = make_table()
    encoded = table
    for name in ("problem_id", "language", "difficulty"):
        place = table.schema.get_field_index(name)
        # The dictionary in another order than the sorted one, in chunks of their own.
        column = pa.chunked_array([table[name].slice(20), table[name].slice(0, 20)])
        column = column.dictionary_encode().combine_chunks()
        column = pa.concat_arrays([column.slice(28), column.slice(0, 28)])
        encoded = encoded.set_column(place, name, column)
    assert encoded.to_pylist() == table.to_pylist()
    sampling = settings(30, difficulties={"hard": 0.3, "easy": 1})
    one, other = plan_pairs(table, sampling), plan_pairs(encoded, sampling)
    np.testing.assert_array_equal(one.correct, other.correct)
    np.testing.assert_array_equal(one.incorrect, other.incorrect)


def test_the_settings_of_a_plan_name_all_that_determines_it(tmp_path: Path) -> None:
    base = pair_settings(settings())
    assert base == pair_settings(settings(length_bin_tokens=5))  # not used
    others = [
        settings(3),
        settings(strategy="uniform"),
        settings(max_pairs_per_problem=4),
        settings(length_matched=True),
        settings(length_matched=True, length_bin_tokens=5),
        settings(match=["author"]),
        settings(match=["author", "length"]),
        settings(difficulties=["easy"]),
        settings(difficulties={"easy": 1}),
        settings(exclude_problems=["p"]),
        DataSamplingSettings(seed=1, pairwise=PairwiseSettings(n_pairs=6)),
    ]
    found = [base, *map(pair_settings, others)]
    assert all(one != other for k, one in enumerate(found) for other in found[:k])
    (tmp_path / "ids").write_text("p\n")  # the content counts, not the name
    file = settings(exclude_problems=str(tmp_path / "ids"))
    assert pair_settings(file) == pair_settings(settings(exclude_problems=["p"]))


def test_the_pairs_are_described_by_the_lengths_of_their_samples(tmp_path: Path) -> None:
    store = synthetic_stores.write_store(tmp_path, seed=3)
    data = read_training_data(store, settings(40))
    rows = store.samples.to_pylist()
    apart = []
    for pair in zip(data.plan.correct, data.plan.incorrect, strict=True):
        right, wrong = (rows[data.samples.table_rows[place]] for place in pair)
        assert (right["is_correct"], wrong["is_correct"]) == (True, False)
        assert right["problem_id"] == wrong["problem_id"]
        apart.append(right["output_tokens"] - wrong["output_tokens"])
    found = data.describe()
    assert found["num_pairs"] == len(apart) == 40
    assert found["mean_length_difference"] == pytest.approx(np.mean(apart))
    wins = [1 if gap > 0 else 0.5 if gap == 0 else 0 for gap in apart]
    assert found["longer_is_correct"] == pytest.approx(np.mean(wins))
    assert found["longer_is_correct"] != 0.5


def test_no_pair_is_of_a_problem_held_out_or_excluded(tmp_path: Path) -> None:
    store = synthetic_stores.write_store(tmp_path / "store", num_problems=20)
    ids = np.array(store.samples["problem_id"].to_pylist())
    excluded = ["problem-000", "problem-001"]
    sampling = settings(9999, exclude_problems=excluded)
    data = read_training_data(store, sampling, train_holdout=0.5)
    assert data.holdout is not None
    trained = set(ids[data.samples.table_rows])
    held = set(ids[data.held_out.table_rows])
    assert len(trained) == len(held) == 9
    assert not (trained | held) & set(excluded)
    assert all(data.holdout.contains(name) for name in held)
    assert not any(data.holdout.contains(name) for name in trained)
    found = data.describe()
    assert (found["num_held_out"], found["num_left_out"]) == (9 * 8, 2 * 8)
    assert found["num_pairs"] == 9 * 16


def test_other_pairs_have_another_checksum(tmp_path: Path) -> None:
    store = synthetic_stores.write_store(tmp_path / "store")
    checksums = {
        read_training_data(store, DataSamplingSettings(seed=seed)).checksum() for seed in (1, 1, 2)
    }
    assert len(checksums) == 2


def shared_ids_store(folder: Path) -> FeatureStore:
    """Two statements for each problem id: the correct outputs of one, all of the other."""
    rows = make_rows(4, 6)
    for row in rows:
        row["is_correct"] = bool(int(row["task_id"][-1]) % 2)
    others = [
        {**row, "instruction": f"Other {row['problem_id']}", "task_id": f"other-{row['task_id']}"}
        for row in rows
        if row["is_correct"]
    ]
    folder.mkdir()
    plan = make_plan(folder, write_rows(folder / "rows.jsonl", [*rows, *others]))
    return FeatureStore.open(write_store(plan))


def test_pairs_never_cross_two_statements_of_a_problem_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = shared_ids_store(tmp_path / "shared")
    data = read_training_data(store, settings(10**6))
    ids = np.array(store.samples["task_id"].to_pylist())[data.samples.table_rows]
    assert not [name for name in ids[data.plan.correct] if name.startswith("other")]
    assert data.describe()["num_shared_ids"] == 4
    assert "4 of 4 problem ids" in caplog.text
    assert labelled_problems(store.samples) == ["p0", "p1", "p2", "p3"]


def test_an_error_without_pairs_names_the_shared_ids() -> None:
    table = pa.table(
        {
            "problem_id": ["a", "a"],
            "language": ["c", "c"],
            "difficulty": ["", ""],
            "is_correct": [True, False],
            "prompt_key": ["x", "y"],
        }
    )
    with pytest.raises(PairError, match=r"1 of 1 .*'a'"):
        plan_training(table, settings())


def test_pairs_of_one_feature_row_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = synthetic_stores.write_store(tmp_path / "store", num_problems=3, samples_per_problem=4)
    rows = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7])
    store = synthetic_stores.replace_column(store, "feature_row", pa.array(rows))
    data = read_training_data(store, settings(10**6))
    assert len(data.plan.correct) == 3 + 4
    assert data.describe()["num_equal_pairs"] == 1 + 4
    assert "5 pairs are left out" in caplog.text
    features = data.samples.feature_rows
    assert (features[data.plan.correct] != features[data.plan.incorrect]).all()


def test_balanced_sources_give_the_same_number_of_pairs() -> None:
    table = make_table()
    names = ["large"] * 36 + ["small"] * 12  # three problems and one
    table = table.append_column("source", pa.array(names))
    pairs = plan_training(table, settings(n_pairs=12, balance="source")).pairs
    assert Counter(np.array(names)[pairs.correct]) == {"large": 6, "small": 6}


def test_records_of_pairs_without_balance_do_not_name_it() -> None:
    assert "balance" not in pair_settings(settings())["pairwise"]
    assert pair_settings(settings(balance="source"))["pairwise"]["balance"] == "source"
