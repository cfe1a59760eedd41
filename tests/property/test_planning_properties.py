"""Whatever the groups and the budget, every output is computed once and nothing goes over."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from featurize.model.packing import PromptGroup, group_samples, plan_packs, plan_padded, plan_units

ids = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
datasets = st.lists(st.tuples(ids, ids), max_size=40)
budgets = st.integers(1, 60)


def sequences(packs: list[list[PromptGroup]]) -> Counter:
    return Counter(
        (row, piece.prompt, output)
        for pack in packs
        for piece in pack
        for output, row in zip(piece.outputs, piece.rows, strict=True)
    )


@given(samples=datasets)
def test_every_sample_finds_its_ids_in_its_row_and_no_ids_have_two_rows(samples):
    grouping = group_samples(samples)
    rows = {row: (prompt, output) for row, prompt, output in sequences([grouping.groups])}
    assert [rows[row] for row in grouping.row_of_sample.tolist()] == samples
    assert sorted(rows) == list(range(grouping.num_rows))
    assert grouping.num_rows == len(set(samples))
    prompts = [group.prompt for group in grouping.groups]
    assert len(prompts) == len(set(prompts))


@given(samples=datasets, budget=budgets)
def test_packs_cover_every_output_once_within_the_budget(samples, budget):
    groups = group_samples(samples).groups
    packs = plan_packs(groups, budget)
    assert sequences(packs) == sequences([groups])
    assert all(count == 1 for count in sequences(packs).values())
    for pack in packs:
        is_single = len(pack) == 1 and len(pack[0].outputs) == 1
        assert is_single or sum(piece.num_tokens for piece in pack) <= budget
        assert pack
        assert all(piece.outputs for piece in pack)


@given(samples=datasets, budget=budgets)
def test_a_prompt_is_repeated_only_when_its_group_exceeds_the_budget(samples, budget):
    groups = {group.prompt: group for group in group_samples(samples).groups}
    pieces = [piece for pack in plan_packs(list(groups.values()), budget) for piece in pack]
    for prompt, times in Counter(piece.prompt for piece in pieces).items():
        group = groups[prompt]
        assert times == 1 or group.num_tokens > budget
        # No two pieces of a group would fit into one.
        totals = sorted(piece.num_tokens for piece in pieces if piece.prompt == prompt)
        assert times == 1 or totals[0] + totals[1] - len(prompt) > budget


@given(samples=datasets, budget=budgets)
def test_padded_batches_cover_every_output_once_within_the_budget(samples, budget):
    groups = group_samples(samples).groups
    batches = plan_padded(groups, budget)
    assert sequences(batches) == sequences([groups])
    for batch in batches:
        assert all(len(single.outputs) == 1 for single in batch)
        longest = max(single.num_tokens for single in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(sizes=st.lists(st.integers(0, 30), max_size=30), unit_size=st.integers(1, 40))
def test_units_cut_the_groups_without_gap_and_none_is_larger_than_it_must(sizes, unit_size):
    units = plan_units(sizes, unit_size)
    assert [number for start, stop in units for number in range(start, stop)] == list(
        range(len(sizes))
    )
    assert all(start < stop for start, stop in units)
    for start, stop in units:
        assert sum(sizes[start : stop - 1]) < unit_size
    for start, stop in units[:-1]:
        assert sum(sizes[start:stop]) >= unit_size


@given(sizes=st.lists(st.integers(0, 30), max_size=20), more=st.lists(st.integers(0, 30)))
def test_units_that_are_full_do_not_depend_on_what_follows(sizes, more):
    units, longer = plan_units(sizes, 40), plan_units(sizes + more, 40)
    full = [unit for unit in units if sum(sizes[slice(*unit)]) >= 40]
    assert longer[: len(full)] == full
