from pathlib import Path

import numpy as np

from headtrain.sweep.inputs import split_validation
from tests.support.synthetic_stores import write_store


def test_the_halves_have_whole_problems_and_about_equal_size(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", num_problems=13)
    halves = split_validation(store)
    ids = np.array(store.samples["problem_id"].to_pylist())
    choose, report = (set(ids[half.table_rows]) for half in (halves.choose, halves.report))
    assert (len(choose), len(report)) == (7, 6)
    assert not choose & report
    assert len(halves.choose) == 7 * 8
