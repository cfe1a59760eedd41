"""Samples by group, against numpy's own sort."""

import numpy as np

from headtrain.metrics.groups import sort_ties


def test_groups_and_runs_of_equal_values_begin_where_a_key_changes() -> None:
    rng = np.random.default_rng(0)
    groups, values = rng.integers(0, 5, 200), rng.integers(0, 4, 200).astype(float)
    order, group_starts, tie_starts = sort_ties(groups, values)
    by_key = np.lexsort((values, groups))
    keys = list(zip(groups[by_key], values[by_key], strict=True))
    assert list(zip(groups[order], values[order], strict=True)) == keys
    assert groups[order][group_starts].tolist() == [0, 1, 2, 3, 4]
    first = [0] + [place for place in range(1, 200) if keys[place] != keys[place - 1]]
    assert tie_starts.tolist() == first
