"""The distance to the train features of a head: what it measures, its calibration, and its file."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.arrays import Floats32, Ints
from featurize.errors import CriticError
from headtrain.head import distance as module
from headtrain.head.distance import DISTANCE_FILE, Distance, Gaussian

WIDTH = 12


def draw(num_problems: int, seed: int, shift: float = 0.0, each: int = 6) -> tuple[Floats32, Ints]:
    """Rows of correlated columns; outputs of a problem are alike."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((WIDTH, WIDTH))
    of_problem = random.standard_normal((num_problems, WIDTH)).repeat(each, axis=0)
    rows = (of_problem + 0.3 * random.standard_normal(of_problem.shape)) @ mix
    rows[:, 0] += shift
    return rows.astype(np.float32), np.repeat(np.arange(num_problems), each)


def test_with_all_components_it_is_mahalanobis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "oas_share", lambda *_: 0.0)
    rows, _ = draw(300, 0)
    found = Gaussian.fit(rows)
    new = draw(20, 1)[0].astype(np.float64)
    centred = new - rows.astype(np.float64).mean(0)
    inverse = np.linalg.inv(np.cov(rows.T.astype(np.float64), bias=True))
    expected = np.einsum("nw,wv,nv->n", centred, inverse, centred) / WIDTH
    assert len(found.variances) == WIDTH - 1  # and the last direction by the variance of the rest
    assert found.measure(new.astype(np.float32)) == pytest.approx(expected, rel=1e-3)


def test_unseen_problems_of_the_same_kind_have_uniform_shares() -> None:
    kept = Distance.fit(*draw(200, 0, each=4))
    shares = kept.measure(draw(400, 1, each=4)[0])
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    assert (shares > 0.9).mean() == pytest.approx(0.1, abs=0.06)


def test_train_itself_measured_by_its_own_fit_would_promise_too_much() -> None:
    rows, problems = draw(30, 0, each=2)
    kept = Distance.fit(rows, problems)
    own = np.quantile(kept.gaussian.measure(rows), 0.9)
    assert own < np.interp(0.9, np.linspace(0, 1, len(kept.quantiles)), kept.quantiles)


def test_rows_beyond_all_of_train_are_at_one_and_the_nearest_at_zero() -> None:
    rows, problems = draw(60, 0)
    kept = Distance.fit(rows, problems)
    assert kept.measure(draw(5, 1, shift=1e4)[0]).tolist() == [1.0] * 30
    assert kept.measure(rows.mean(0, keepdims=True)).tolist() == [0.0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 50), st.floats(-5, 5))
def test_shares_do_not_depend_on_unit_or_origin_of_a_column(
    seed: int, factor: float, offset: float
) -> None:
    rows, problems = draw(40, seed)
    new = draw(10, seed + 1)[0]
    moved, moved_new = rows.copy(), new.copy()
    for table in (moved, moved_new):
        table[:, 3] = table[:, 3] * np.float32(factor) + np.float32(offset)
    before, after = Distance.fit(rows, problems), Distance.fit(moved, problems)
    assert after.measure(moved_new) == pytest.approx(before.measure(new), abs=0.02)


def test_a_column_that_hardly_varies_on_train_decides_nothing() -> None:
    rows, problems = draw(80, 0)
    rows[:, 5] = 7.0
    kept = Distance.fit(rows, problems)
    new = draw(40, 1)[0]
    new[:, 5] = 7.0
    rounded = new.copy()
    rounded[:, 5] = np.nextafter(np.float32(7), np.float32(8))
    assert kept.measure(rounded) == pytest.approx(kept.measure(new), abs=1e-3)


def test_of_many_rows_whole_problems_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 50)
    kept = Distance.fit(*draw(40, 0))
    assert (kept.num_rows, kept.num_problems) == (48, 8)


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    rows, problems = draw(40, 0)
    contents = [
        Distance.fit(rows, problems).write(tmp_path / name, "abc").read_bytes() for name in "ab"
    ]
    assert contents[0] == contents[1]


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    kept = Distance.fit(*draw(40, 0))
    path = kept.write(tmp_path, "abc")
    assert path.name == DISTANCE_FILE
    found = Distance.read(str(path), path.read_bytes(), "abc", WIDTH)
    new = draw(10, 1)[0]
    assert found.measure(new).tolist() == kept.measure(new).tolist()
    assert (found.num_rows, found.num_problems) == (240, 40)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"num_rows", b"old_rows", "damaged"),
        (b"components", b"kompenents", "damaged"),
        (b'version\\": 1', b'version\\": 7', "format version 7"),
        (b'checksum\\": \\"abc', b'checksum\\": \\"abd', "other weights"),
    ],
)
def test_a_file_that_is_not_the_heads_is_refused(
    tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    content = Distance.fit(*draw(20, 0)).write(tmp_path, "abc").read_bytes()
    assert old in content
    with pytest.raises(CriticError, match=rf"^a/file: .*{told}.*--distance` again, or delete"):
        Distance.read("a/file", content.replace(old, new), "abc", WIDTH)


@pytest.mark.parametrize("size", [0, 5, 100, -9])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, size: int) -> None:
    content = Distance.fit(*draw(20, 0)).write(tmp_path, "abc").read_bytes()
    with pytest.raises(CriticError, match="damaged"):
        Distance.read("a/file", content[:size], "abc", WIDTH)


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    content = Distance.fit(*draw(20, 0)).write(tmp_path, "abc").read_bytes()
    with pytest.raises(CriticError, match="a/file"):
        Distance.read("a/file", content, "abc", WIDTH + 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scale": np.ones(3, np.float32)}, r"scale is \[3\], not \[12\]"),
        ({"components": np.ones((WIDTH, 1), np.float32)}, "components"),
        ({"variances": np.ones((1, 1), np.float32)}, "components"),
        (
            {
                "components": np.ones((WIDTH, 1), np.float32),
                "variances": np.ones((1, 1), np.float32),
            },
            "variances",
        ),
        ({"rest": np.array([np.nan], np.float32)}, "rest holds NaN or inf"),
        ({"quantiles": np.array([0.0, np.inf])}, "quantiles holds NaN or inf"),
        ({"quantiles": np.array([2.0, 1.0])}, "quantiles are not ascending"),
        ({"quantiles": np.ones((2, 2))}, "quantiles"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    kept = Distance.fit(*draw(20, 0))
    if "quantiles" in change:
        changed = dataclasses.replace(kept, **change)
    else:
        changed = dataclasses.replace(kept, gaussian=dataclasses.replace(kept.gaussian, **change))
    content = changed.write(tmp_path, "abc").read_bytes()
    with pytest.raises(CriticError, match=rf"^a/file: damaged \(.*{told}.*or delete the file"):
        Distance.read("a/file", content, "abc", WIDTH)


def test_one_problem_or_equal_rows_have_no_distance() -> None:
    rows, _ = draw(20, 0)
    with pytest.raises(CriticError, match="at least 2 problems, not 1"):
        Distance.fit(rows, np.zeros(len(rows), np.int64))
    with pytest.raises(CriticError, match="are equal"):
        Distance.fit(np.ones_like(rows), np.arange(len(rows)))
