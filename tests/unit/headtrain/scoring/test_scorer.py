"""Ranks within a problem."""

import numpy as np
import pytest

from headtrain.scoring.scorer import rank_within


@pytest.mark.parametrize(
    ("values", "groups", "ranks"),
    [
        ([], [], []),
        ([5.0], [0], [1]),
        ([1.0, 3.0, 2.0], [0, 0, 0], [3, 1, 2]),
        ([1.0, 3.0, 3.0, 0.0], [0, 0, 0, 0], [3, 1, 1, 4]),
        ([1.0, 2.0, 9.0, 2.0], [1, 0, 1, 0], [2, 1, 1, 1]),
        ([-1.0, -1.0], [0, 1], [1, 1]),
    ],
)
def test_ranks_count_from_the_best_and_ties_share_the_smaller(
    values: list[float], groups: list[int], ranks: list[int]
) -> None:
    assert rank_within(np.array(values), np.array(groups, np.int64)).tolist() == ranks
