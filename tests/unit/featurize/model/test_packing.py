"""Groups, packs and units of exact sizes."""

import numpy as np
import pytest

from featurize.model.packing import (
    PromptGroup,
    group_samples,
    plan_packs,
    plan_padded,
    plan_units,
)


def make_group(prompt: int, *lengths: int, first_row: int = 0) -> PromptGroup:
    """A prompt of so many tokens with outputs of so many tokens."""
    outputs = tuple((number,) * length for number, length in enumerate(lengths))
    rows = tuple(range(first_row, first_row + len(lengths)))
    return PromptGroup(prompt=(7,) * prompt, outputs=outputs, rows=rows)


def test_no_samples_make_no_groups():
    grouping = group_samples([])
    assert (grouping.groups, grouping.num_rows) == ([], 0)
    assert grouping.row_of_sample.shape == (0,)
    assert grouping.row_of_sample.dtype == np.int64


def test_samples_are_grouped_by_prompt_and_duplicates_merged():
    a, b = (1, 2), (3,)
    grouping = group_samples([(a, (5,)), (b, (5,)), (a, (6,)), (a, (5,)), (b, (5,)), (b, (6,))])
    assert grouping.groups == [
        PromptGroup(prompt=a, outputs=((5,), (6,)), rows=(0, 2)),
        PromptGroup(prompt=b, outputs=((5,), (6,)), rows=(1, 3)),
    ]
    assert grouping.row_of_sample.tolist() == [0, 1, 2, 0, 1, 3]
    assert grouping.num_rows == 4


def test_groups_share_packs_up_to_the_budget_exactly():
    groups = [make_group(2, 3), make_group(4, 1), make_group(6, 4), make_group(1, 1)]
    packs = plan_packs(groups, 10)
    assert [[group.num_tokens for group in pack] for pack in packs] == [[10], [5, 5], [2]]


def test_a_group_that_fits_exactly_is_not_split():
    assert plan_packs([make_group(4, 3, 3)], 10) == [[make_group(4, 3, 3)]]


def test_a_group_above_the_budget_repeats_its_prompt_in_few_pieces():
    packs = plan_packs([make_group(4, 1, 6, 5, 2, first_row=10)], 11)
    pieces = [piece for pack in packs for piece in pack]
    assert [(len(piece.prompt), piece.rows) for piece in pieces] == [(4, (10, 11)), (4, (12, 13))]
    assert [tuple(map(len, piece.outputs)) for piece in pieces] == [(1, 6), (5, 2)]
    for piece in pieces:
        assert [output[0] for output in piece.outputs] == [row - 10 for row in piece.rows]


def test_padded_batches_hold_single_sequences_of_like_length():
    batches = plan_padded([make_group(2, 1, 8), make_group(3, 6, 1, first_row=2)], 20)
    assert [[single.rows for single in batch] for batch in batches] == [[(1,), (2,)], [(3,), (0,)]]
    assert [[single.num_tokens for single in batch] for batch in batches] == [[10, 9], [4, 3]]


@pytest.mark.parametrize(
    ("sizes", "unit_size", "expected"),
    [
        ([], 10, []),
        ([3], 10, [(0, 1)]),
        ([10], 10, [(0, 1)]),
        ([4, 6, 1], 10, [(0, 2), (2, 3)]),
        ([4, 5, 1, 99, 2], 10, [(0, 3), (3, 4), (4, 5)]),
        ([99, 99], 10, [(0, 1), (1, 2)]),
        ([0, 0, 10, 0], 10, [(0, 3), (3, 4)]),
    ],
)
def test_units_are_consecutive_groups_of_about_the_size_asked(sizes, unit_size, expected):
    assert plan_units(sizes, unit_size) == expected
