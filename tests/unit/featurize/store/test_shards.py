"""Which stretches of a store are read for a set of rows."""

import numpy as np
import pytest

from featurize.store.shards import plan_runs

STARTS = np.array([0, 10, 10, 30])  # units of 10, 0 and 20 rows


def plan(rows, most_gap=0):
    runs = plan_runs(np.array(rows, np.int64), STARTS, most_gap)
    found = zip(runs.units, runs.first_rows, runs.num_rows, runs.are_direct, strict=True)
    return runs, list(found)


def test_no_rows_are_no_runs():
    assert plan([])[1] == []


def test_rows_in_a_row_are_one_run_copied_as_it_is():
    assert plan([3, 4, 5])[1] == [(0, 3, 3, True)]
    assert plan(range(30))[1] == [(0, 0, 10, True), (2, 0, 20, True)]


@pytest.mark.parametrize("rows", [[5, 4, 3], [3, 3, 4], [3, 5, 4]])
def test_rows_in_another_order_or_twice_are_read_once_and_picked(rows):
    runs, found = plan(rows, most_gap=1)
    assert found == [(0, 3, max(rows) - 2, False)]
    assert (np.array(rows)[runs.order] - 3).tolist() == runs.offsets.tolist()


def test_rows_with_a_small_gap_between_them_are_read_together():
    assert plan([2, 4, 8], most_gap=1)[1] == [(0, 2, 3, False), (0, 8, 1, True)]
    assert plan([2, 4, 8], most_gap=3)[1] == [(0, 2, 7, False)]


def test_large_rows_are_read_together_only_where_no_copy_is_needed():
    assert plan([2, 4, 5])[1] == [(0, 2, 1, True), (0, 4, 2, True)]
    assert plan([5, 4])[1] == [(0, 4, 1, True), (0, 5, 1, True)]
    assert plan([4, 4, 5])[1] == [(0, 4, 2, False)]


def test_neighbours_in_two_units_are_two_runs():
    assert plan([9, 10], most_gap=100)[1] == [(0, 9, 1, True), (2, 0, 1, True)]
