from pathlib import Path

import pyarrow as pa
import pytest

from featurize.errors import CriticError
from headtrain.pairs.rows import choose_holdout, labelled_problems
from tests.support.synthetic_stores import write_store

NAMES = [f"problem-{number}" for number in range(40)]


@pytest.mark.parametrize(("share", "number"), [(0.25, 10), (0.001, 1), (0.999, 39)])
def test_the_share_of_the_problems_is_held_out(share: float, number: int) -> None:
    holdout = choose_holdout(NAMES, share)
    assert holdout is not None
    assert sum(holdout.contains(name) for name in NAMES) == number


def test_order_and_repetition_do_not_matter_and_more_problems_move_few() -> None:
    holdout = choose_holdout(NAMES, 0.25)
    assert choose_holdout([*NAMES[::-1], *NAMES], 0.25) == holdout
    more = choose_holdout([*NAMES, "another"], 0.25)
    assert holdout is not None
    assert more is not None
    assert sum(holdout.contains(name) != more.contains(name) for name in NAMES) <= 1


def test_nothing_is_held_out_of_too_few() -> None:
    assert choose_holdout(NAMES, 0.0) is None
    with pytest.raises(CriticError, match=r"train_holdout 0\.5 needs two train problems"):
        choose_holdout(["only"], 0.5)


def test_a_mask_says_it_row_by_row() -> None:
    holdout = choose_holdout(NAMES, 0.25)
    assert holdout is not None
    column = pa.chunked_array([NAMES[::2], NAMES[1::2]])
    expected = [holdout.contains(name) for name in [*NAMES[::2], *NAMES[1::2]]]
    assert holdout.mask(column).tolist() == expected


def test_only_problems_with_both_labels_count(tmp_path: Path) -> None:
    labels = [place < 8 or None if place < 16 else bool(place % 2) for place in range(96)]
    store = write_store(tmp_path / "store", labels=labels)
    assert labelled_problems(store.samples) == [f"problem-{n:03d}" for n in range(2, 12)]
