from typing import Literal

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from headtrain.pairs import fill_evenly, sample_pairs

Samples = list[tuple[int, bool]]


@given(
    samples=st.lists(st.tuples(st.integers(-3, 4), st.booleans()), max_size=60),
    n_pairs=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(["balanced", "uniform"]),
    cap=st.none() | st.integers(1, 20),
)
def test_pairs_are_exactly_what_was_asked_for(
    samples: Samples,
    n_pairs: int,
    seed: int,
    strategy: Literal["balanced", "uniform"],
    cap: int | None,
) -> None:
    codes = np.array([code for code, _ in samples], dtype=np.int64)
    labels = np.array([label for _, label in samples], dtype=bool)
    possible = {
        int(code): int((labels & (codes == code)).sum() * (~labels & (codes == code)).sum())
        for code in np.unique(codes)
    }
    assume(any(possible.values()))

    def draw() -> list[tuple[int, int]]:
        plan = sample_pairs(
            codes, labels, n_pairs, seed=seed, strategy=strategy, max_pairs_per_problem=cap
        )
        return list(zip(plan.correct.tolist(), plan.incorrect.tolist(), strict=True))

    pairs = draw()
    assert all(labels[c] and not labels[i] and codes[c] == codes[i] for c, i in pairs)
    assert len(set(pairs)) == len(pairs)
    limits = {code: min(count, cap or count) for code, count in possible.items()}
    assert len(pairs) == min(n_pairs, sum(limits.values()))
    drawn = {code: sum(codes[c] == code for c, _ in pairs) for code in limits}
    assert all(drawn[code] <= limits[code] for code in limits)
    assert pairs == draw()
    if strategy == "balanced":
        # Whoever got less than another by more than the remainder of one was at its limit.
        most = max(drawn.values())
        assert all(drawn[code] >= min(limits[code], most - 1) for code in limits)


@given(limits=st.lists(st.integers(1, 50), min_size=1, max_size=20), data=st.data())
def test_filling_evenly_spends_the_total_within_the_limits(
    limits: list[int], data: st.DataObject
) -> None:
    total = data.draw(st.integers(0, sum(limits)))
    quotas = fill_evenly(np.array(limits), total, np.random.default_rng(0))
    assert quotas.sum() == total
    assert (quotas <= limits).all()
    assert (quotas >= 0).all()
