import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from headtrain.pairs.pair_plan import pair_settings, plan_pairs, read_excluded_problems

from headtrain.pairs.sampler import PairError
from headtrain.settings import DataSamplingSettings, PairwiseSettings


def make_table(num_problems: int = 4, num_samples: int = 12) -> pa.Table:
    """Problems 0, 2, .. are easy, the others hard; even samples are correct and short."""
    places = [(problem, number) for problem in range(num_problems) for number in range(num_samples)]
    return pa.table(
        {
            "problem_id": [f"p{problem}" for problem, _ in places],
            "language": [("c", "python")[number % 4 // 2] for _, number in places],
            "difficulty": [("easy", "hard")[problem % 2] for problem, _ in places],
            "is_correct": [number % 2 == 0 for _, number in places],
            "output_tokens": pa.array([10 * number for _, number in places], pa.int32()),
        }
    )


def settings(**pairwise: Any) -> DataSamplingSettings:
    return DataSamplingSettings(pairwise=PairwiseSettings(**pairwise))


def problems_of(table: pa.Table, rows: np.ndarray) -> Counter[str]:
    return Counter(table["problem_id"].take(pa.array(rows)).to_pylist())


def test_two_languages_are_never_a_pair() -> None:
    table = make_table()
    plan = plan_pairs(table, settings(n_pairs=10**6))
    languages = np.array(table["language"].to_pylist())
    assert (languages[plan.correct] == languages[plan.incorrect]).all()
    assert plan.num_possible == len(plan.correct) == 4 * 2 * 9


def test_matched_pairs_lie_in_one_bin() -> None:
    table = make_table()
    lengths = table["output_tokens"].to_numpy()
    free = plan_pairs(table, settings(n_pairs=10**6))
    matched = plan_pairs(table, settings(n_pairs=10**6, length_matched=True, length_bin_tokens=20))
    assert np.abs(lengths[free.correct] - lengths[free.incorrect]).max() > 20
    assert (lengths[matched.correct] // 20 == lengths[matched.incorrect] // 20).all()
    assert matched.num_possible == 4 * 6


def test_difficulties_are_taken_by_name_or_by_weight() -> None:
    table = make_table()
    easy = plan_pairs(table, settings(n_pairs=10**6, difficulties=["easy"]))
    assert set(problems_of(table, easy.correct)) == {"p0", "p2"}
    assert easy.num_left_out == 24
    weighted = plan_pairs(table, settings(n_pairs=12, difficulties={"easy": 1.0, "hard": 0.5}))
    assert problems_of(table, weighted.correct) == {"p0": 4, "p1": 2, "p2": 4, "p3": 2}
    none = plan_pairs(table, settings(n_pairs=10**6, difficulties={"easy": 1.0, "hard": 0}))
    assert set(problems_of(table, none.correct)) == {"p0", "p2"}


def test_an_unknown_difficulty_has_a_name_too() -> None:
    table = make_table().set_column(2, "difficulty", pa.array(["easy"] * 12 + [None] * 36))
    plan = plan_pairs(table, settings(n_pairs=10**6, difficulties=["unknown"]))
    assert set(problems_of(table, plan.correct)) == {"p1", "p2", "p3"}


def test_a_difficulty_that_no_sample_has_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan_pairs(make_table(), settings(difficulties={"easy": 1, "hrd": 1}))
    assert "no sample is 'hrd'; there are easy, hard" in caplog.text


def test_excluded_problems_give_no_pair(tmp_path: Path) -> None:
    table = make_table()
    (tmp_path / "ids.txt").write_text("p3\n\n  p1 \n")
    for names in (["p1", "p3"], str(tmp_path / "ids.txt")):
        sampling = settings(n_pairs=10**6, exclude_problems=names)
        excluded = read_excluded_problems(sampling.pairwise)
        plan = plan_pairs(table, sampling, excluded)
        assert set(problems_of(table, plan.correct)) == {"p0", "p2"}
        assert plan.num_left_out == 24


def test_leaving_everything_out_is_refused() -> None:
    with pytest.raises(PairError, match="leaves out all 48 labelled samples"):
        plan_pairs(make_table(), settings(difficulties=["medium"]))
    with pytest.raises(PairError, match=r"leaves out all 48 labelled samples.*4 excluded"):
        plan_pairs(make_table(), settings(), ["p0", "p1", "p2", "p3"])


def test_how_the_strings_are_encoded_does_not_matter() -> None:
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
    sampling = settings(n_pairs=30, difficulties={"hard": 0.3, "easy": 1})
    one, other = plan_pairs(table, sampling), plan_pairs(encoded, sampling)
    np.testing.assert_array_equal(one.correct, other.correct)
    np.testing.assert_array_equal(one.incorrect, other.incorrect)


def test_the_settings_of_a_plan_name_all_that_decides_it(tmp_path: Path) -> None:
    base = pair_settings(settings(), ())
    assert base == pair_settings(settings(length_bin_tokens=5), ())  # not used
    others = [
        settings(n_pairs=3),
        settings(strategy="uniform"),
        settings(max_pairs_per_problem=4),
        settings(length_matched=True),
        settings(length_matched=True, length_bin_tokens=5),
        settings(difficulties=["easy"]),
        settings(difficulties={"easy": 1}),
        DataSamplingSettings(seed=1),
    ]
    found = [base, pair_settings(settings(), ("p",)), *(pair_settings(s, ()) for s in others)]
    assert all(one != other for k, one in enumerate(found) for other in found[:k])
    file = settings(exclude_problems=str(tmp_path / "ids"))
    assert pair_settings(file, ("p",)) == found[1]  # what the file says counts, not its name
