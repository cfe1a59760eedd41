from typing import Any, Literal

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from headtrain.pairs.plan import plan_pairs
from headtrain.pairs.rng import PortableRng
from headtrain.pairs.sampler import allocate_balanced, sample_pairs
from headtrain.settings import DataSamplingSettings, PairwiseSettings

Samples = list[tuple[int, bool, int]]

SAMPLE = st.tuples(st.integers(-3, 4), st.booleans(), st.integers(0, 2))
"""Its problem, its label and its class."""


@settings(max_examples=60)
@given(
    samples=st.lists(SAMPLE, max_size=60).map(lambda more: [(0, True, 0), (0, False, 0), *more]),
    has_classes=st.booleans(),
    n_pairs=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(["balanced", "uniform"]),
    cap=st.none() | st.integers(1, 20),
)
def test_pairs_are_exactly_what_was_asked_for(
    samples: Samples,
    has_classes: bool,
    n_pairs: int,
    seed: int,
    strategy: Literal["balanced", "uniform"],
    cap: int | None,
) -> None:
    codes = np.array([code for code, _, _ in samples], dtype=np.int64)
    labels = np.array([label for _, label, _ in samples], dtype=bool)
    classes = np.array([number * has_classes for *_, number in samples], dtype=np.int64)
    possible = {
        int(code): sum(
            int((labels & inside).sum() * (~labels & inside).sum())
            for inside in ((codes == code) & (classes == number) for number in range(3))
        )
        for code in np.unique(codes)
    }

    def draw() -> list[tuple[int, int]]:
        plan = sample_pairs(
            codes,
            labels,
            n_pairs,
            seed=seed,
            strategy=strategy,
            max_pairs_per_problem=cap,
            classes=classes if has_classes else None,
        )
        assert plan.num_possible == sum(possible.values())
        return list(zip(plan.correct.tolist(), plan.incorrect.tolist(), strict=True))

    pairs = draw()
    assert all(labels[c] and not labels[i] for c, i in pairs)
    assert all(codes[c] == codes[i] and classes[c] == classes[i] for c, i in pairs)
    assert len(set(pairs)) == len(pairs)
    limits = {code: min(count, cap or count) for code, count in possible.items()}
    assert len(pairs) == min(n_pairs, sum(limits.values()))
    drawn = {code: sum(codes[c] == code for c, _ in pairs) for code in limits}
    assert all(drawn[code] <= limits[code] for code in limits)
    assert pairs == draw()
    if strategy == "balanced":
        # A problem that has at least two pairs fewer than another is at its limit.
        most = max(drawn.values())
        assert all(drawn[code] >= min(limits[code], most - 1) for code in limits)


@settings(max_examples=60)
@given(
    members=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=20),
    data=st.data(),
)
def test_an_allocation_spends_the_total_by_weight_within_the_limits(
    members: list[tuple[int, int]], data: st.DataObject
) -> None:
    limits, weights = (np.array(column) for column in zip(*members, strict=True))
    total = data.draw(st.integers(0, int(limits.sum())))
    rng = PortableRng(data.draw(st.integers(0, 99)))
    counts = allocate_balanced(limits, total, weights, rng)
    assert counts.sum() == total
    assert (counts <= limits).all()
    assert (counts >= 0).all()
    has_room = counts < limits
    for member in np.flatnonzero(has_room):  # none has a whole unit more by weight
        assert ((counts - 1) * weights[member] <= (counts[member] + 1) * weights).all()


ROW = st.fixed_dictionaries(
    {
        "problem_id": st.sampled_from(["p", "q", "é"]),
        "language": st.sampled_from(["python", "c", None]),
        "difficulty": st.sampled_from(["easy", "hard", None]),
        "is_correct": st.sampled_from([True, True, False, False, None]),
        "output_tokens": st.integers(1, 30),
    }
)

ONE_PAIR = [
    {
        "problem_id": "p",
        "language": None,
        "difficulty": "easy",
        "is_correct": label,
        "output_tokens": 1,
    }
    for label in (True, False)
]


@settings(max_examples=60)
@given(
    rows=st.lists(ROW, max_size=60).map(lambda more: [*ONE_PAIR, *more]),
    width=st.integers(1, 20),
    difficulties=st.sampled_from([None, ("easy",), {"easy": 1.0, "unknown": 0.5}]),
    excluded=st.sampled_from([(), ("q",), ("q", "nobody")]),
    seed=st.integers(0, 99),
)
def test_planned_pairs_agree_in_all_that_the_settings_ask_for(
    rows: list[dict[str, Any]],
    width: int,
    difficulties: Any,
    excluded: tuple[str, ...],
    seed: int,
) -> None:
    wanted = {"easy", "hard", None} if difficulties is None else {"easy"}
    if isinstance(difficulties, dict):
        wanted |= {None}
    allowed = [
        row["is_correct"] is not None
        and row["difficulty"] in wanted
        and row["problem_id"] not in excluded
        for row in rows
    ]

    def cell(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["problem_id"], row["language"], row["output_tokens"] // width

    expected = {
        (c, i)
        for c, first in enumerate(rows)
        for i, second in enumerate(rows)
        if allowed[c] and allowed[i] and first["is_correct"] and second["is_correct"] is False
        if cell(first) == cell(second)
    }
    sampling = DataSamplingSettings(
        seed=seed,
        pairwise=PairwiseSettings(
            n_pairs=5000,
            length_matched=True,
            length_bin_tokens=width,
            difficulties=difficulties,
        ),
    )
    plan = plan_pairs(pa.Table.from_pylist(rows, SCHEMA), sampling, excluded)
    pairs = list(zip(plan.correct.tolist(), plan.incorrect.tolist(), strict=True))
    assert sorted(pairs) == sorted(expected)
    assert plan.num_left_out == sum(r["is_correct"] is not None for r in rows) - sum(allowed)


SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "language": pa.string(),
        "difficulty": pa.string(),
        "is_correct": pa.bool_(),
        "output_tokens": pa.int32(),
    }
)
