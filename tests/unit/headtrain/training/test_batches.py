from typing import Any

import numpy as np
import pytest
import torch

from headtrain.settings import TrainingSettings
from headtrain.training.batches import BatchMaker, ItemStream
from headtrain.training.objective import all_pairs, make_objective
from tests.support.head_jobs import CPU, make_inputs, make_plan, rows_of_pairs


def make_batches(*, seed: int = 3, num_items: int | None = None, **settings: Any) -> BatchMaker:
    training = TrainingSettings(**{"batch_size": 4, **settings})
    inputs = make_inputs()
    objective = make_objective(inputs, make_plan(inputs), training)
    return BatchMaker(
        [objective],
        [seed],
        batch_size=training.batch_size,
        batches_per_step=training.gradient_accumulation_steps,
        num_items=num_items or round(training.n_epochs * objective.num_items),
        device=CPU,
    )


def pairs_of(maker: BatchMaker, num_steps: int) -> list[list[tuple[int, int]]]:
    """Feature rows of the pairs of every batch."""
    found = []
    for step in range(num_steps):
        for batch in maker.read(step):
            assert batch.second is not None
            first, second = batch.rows[batch.first], batch.rows[batch.second]
            found.append(list(zip(first.tolist(), second.tolist(), strict=True)))
    return found


def test_every_pair_is_visited_once_an_epoch() -> None:
    batches = pairs_of(make_batches(n_epochs=2.5), 19)
    stream = [pair for batch in batches for pair in batch]
    inputs = make_inputs()
    planned = sorted(
        zip(*(r.tolist() for r in rows_of_pairs(inputs, make_plan(inputs))), strict=True)
    )
    assert len(stream) == 75
    assert sorted(stream[:30]) == sorted(stream[30:60]) == planned
    assert stream[:30] != stream[30:60]


def test_no_batch_is_short_but_the_last() -> None:
    sizes = [len(batch) for batch in pairs_of(make_batches(n_epochs=2.5), 19)]
    assert sizes == [4] * 18 + [3]


def test_a_row_is_scored_once_however_many_pairs_it_is_in() -> None:
    maker = make_batches(batching="problems", problem_pairs="all", batch_size=60)
    seen = 0
    for step in range(3):
        for batch in maker.read(step):
            assert len(set(batch.rows.tolist())) == len(batch.rows) == batch.num_rows
            assert len(batch.first) > batch.num_rows
            seen += len(batch.first)
    inputs = make_inputs()
    assert seen == len(all_pairs(inputs, make_plan(inputs))[0])


def test_batches_of_problems_hold_whole_problems() -> None:
    inputs = make_inputs()
    correct, incorrect = rows_of_pairs(inputs, make_plan(inputs))
    problems = dict(zip(inputs.rows.tolist(), inputs.samples.problems.tolist(), strict=True))
    whole = {
        number: sorted(
            p
            for p in zip(correct.tolist(), incorrect.tolist(), strict=True)
            if problems[p[1]] == number
        )
        for number in range(5)
    }
    maker = make_batches(batching="problems", batch_size=12)
    for batch in pairs_of(maker, 2):
        for number in {problems[pair[1]] for pair in batch}:
            assert sorted(p for p in batch if problems[p[1]] == number) == whole[number]


def test_all_pairs_are_those_of_the_touched_samples_of_each_problem() -> None:
    inputs = make_inputs()
    plan = make_plan(inputs, 12)
    left, right = all_pairs(inputs, plan)
    problems = inputs.samples.problems
    expected = {
        (c, w)
        for c in set(plan.correct.tolist())
        for w in set(plan.incorrect.tolist())
        if problems[c] == problems[w]
    }
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected
    assert len(left) == len(expected) > 12


def test_shares_of_a_step_add_up_to_one_and_weigh_problems_alike() -> None:
    maker = make_batches(pair_weights="problems", batch_size=15, gradient_accumulation_steps=2)
    batches = maker.read(0)
    assert sum(float(batch.shares.sum()) for batch in batches) == pytest.approx(1)
    problems = dict(zip(make_inputs().rows.tolist(), make_inputs().samples.problems, strict=True))
    by_problem = np.zeros(5)
    for batch in batches:
        assert batch.second is not None
        for row, share in zip(batch.rows[batch.second].tolist(), batch.shares, strict=True):
            by_problem[problems[row]] += float(share)
    np.testing.assert_allclose(by_problem, 0.2, rtol=1e-5)


def test_the_steps_are_the_same_wherever_reading_begins() -> None:
    whole = make_batches(n_epochs=20)
    begun_late = make_batches(n_epochs=20)
    for step in (70, 33, 149):
        for left, right in zip(whole.read(step), begun_late.read(step), strict=True):
            assert torch.equal(left.rows, right.rows)
            assert torch.equal(left.first, right.first)
    assert pairs_of(make_batches(seed=4), 2) != pairs_of(make_batches(seed=3), 2)


def test_the_stream_gives_the_same_items_however_it_is_read() -> None:
    whole = ItemStream(7, seed=1).read(0, 30)
    stream = ItemStream(7, seed=1)
    pieces = [stream.read(start, min(start + 4, 30)) for start in range(0, 30, 4)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(ItemStream(7, seed=1).read(17, 30), whole[17:])
    assert not np.array_equal(ItemStream(7, seed=2).read(0, 30), whole)


def test_a_pointwise_batch_has_two_samples_per_pair() -> None:
    assert make_batches(loss_type="pointwise").items_per_batch == 8
    assert len(make_batches(loss_type="pointwise").read(0)[0].rows) == 8


def test_a_batch_of_problems_has_about_batch_size_pairs() -> None:
    inputs = make_inputs()
    settings = TrainingSettings(batching="problems")
    objective = make_objective(inputs, make_plan(inputs), settings)
    assert objective.num_items == 5
    assert [objective.items_per_batch(size) for size in (1, 6, 13, 100)] == [1, 1, 2, 17]
