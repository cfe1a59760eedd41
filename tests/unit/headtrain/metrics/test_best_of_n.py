"""Best of n: against every subset there is."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from headtrain.metrics.best_of_n import (
    Margins,
    choose_sizes,
    halved_rates,
    majority_rates,
    mean_rates,
    oracle_rates,
    pass_rates,
    ties_score,
    top_1,
)
from headtrain.metrics.pairwise import ScoredSamples
from tests.support.benchmark_rows import load_reward_bench


def simulated(seed, sizes=(6, 9, 3, 1), kinds=4):
    generator = np.random.default_rng(seed)
    problem = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return ScoredSamples(
        scores=generator.integers(0, kinds, len(problem)) * 1.0,
        is_correct=generator.random(len(problem)) < 0.4,
        problem=problem,
        output_tokens=generator.integers(1, 9, len(problem)),
    )


def of_subsets(scored, n, picked):
    """Mean over all subsets of n of each problem of what `picked` says of one."""
    rates = []
    for problem in np.unique(scored.problem):
        places = np.flatnonzero(scored.problem == problem)
        subsets = [np.array(subset) for subset in combinations(places, n)]
        rates.append(np.mean([picked(s) for s in subsets]) if subsets else np.nan)
    return rates


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [1, 2, 3, 6, 8])
def test_the_pass_rate_is_the_mean_over_all_subsets_with_ties_broken_evenly(seed, n):
    scored = simulated(seed)

    def picked(subset):
        top = subset[scored.scores[subset] == scored.scores[subset].max()]
        return scored.is_correct[top].mean()

    expected = of_subsets(scored, n, picked)
    assert pass_rates(scored, (n,))[:, 0] == pytest.approx(expected, nan_ok=True)


def test_the_oracle_is_the_share_of_subsets_with_a_correct_candidate():
    scored = simulated(7, sizes=(12, 30))
    rates = oracle_rates(scored, (1, 4, 8))
    for row, problem in zip(rates, (0, 1), strict=True):
        labels = scored.is_correct[scored.problem == problem]
        none = [hypergeom.pmf(0, len(labels), labels.sum(), n) for n in (1, 4, 8)]
        assert row == pytest.approx(1 - np.array(none))


def test_any_candidate_passes_as_often_whatever_n():
    scored = simulated(3)
    rates = mean_rates(scored, (1, 2, 4))
    shares = [scored.is_correct[scored.problem == problem].mean() for problem in range(4)]
    for column in rates.T:
        known = np.isfinite(column)
        assert column[known] == pytest.approx(np.array(shares)[known])
    assert np.isnan(rates[3]).tolist() == [False, True, True]


def test_many_candidates_lose_no_digits():
    scored = simulated(1, sizes=(4000,), kinds=100_000)
    rates = pass_rates(scored, (1, 2048, 4000))[0]
    assert rates[0] == pytest.approx(scored.is_correct.mean(), rel=1e-9)
    assert rates[2] == scored.is_correct[scored.scores.argmax()]
    assert 0 <= rates[1] <= 1


def test_sizes_are_powers_of_two_that_half_of_the_problems_have():
    assert choose_sizes(np.array([8, 9, 30, 2])) == (1, 2, 4, 8)
    assert choose_sizes(np.array([1, 1, 50])) == (1,)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_majority_is_that_of_all_subsets_within_the_noise_of_drawing(n):
    scored = simulated(5, sizes=(7, 7), kinds=3)
    outputs = np.array([int(code) for code in scored.scores])

    def picked(subset):
        votes = np.bincount(outputs[subset])
        tops = np.flatnonzero(votes == votes.max())
        return np.mean([scored.is_correct[subset[outputs[subset] == top]].mean() for top in tops])

    expected = of_subsets(scored, n, picked)
    found = np.mean(
        [majority_rates(scored, outputs, (n,), seed=seed)[:, 0] for seed in range(20)], axis=0
    )
    assert found == pytest.approx(expected, abs=0.03)


def test_a_majority_of_different_outputs_is_any_candidate():
    scored = simulated(6)
    rates = majority_rates(scored, np.arange(len(scored)), (1, 4), seed=0)
    expected = [scored.is_correct[scored.problem == problem].mean() for problem in range(4)]
    assert rates[:, 0] == pytest.approx(expected)
    assert np.isnan(rates[:, 1]).tolist() == [False, False, True, True]


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_with_half_of_the_candidates_dropped_early_the_best_of_the_rest_is_picked(n):
    generator = np.random.default_rng(2)
    scored = simulated(3, sizes=(6, 7))
    scored = scored.with_scores(generator.permutation(len(scored)) * 1.0)
    early = generator.permutation(len(scored)) * 1.0

    def picked(subset):
        kept = subset[np.argsort(-early[subset])][: (n + 1) // 2]
        return float(scored.is_correct[kept[np.argmax(scored.scores[kept])]])

    expected = of_subsets(scored, n, picked)
    rates = [halved_rates(scored, early, (n,), seed=seed)[:, 0] for seed in range(50)]
    assert np.mean(rates, axis=0) == pytest.approx(expected, abs=0.02)
    assert halved_rates(scored, early, (n,), seed=1).tolist() == rates[1][:, None].tolist()


def test_a_prefix_that_judges_as_the_whole_does_drops_no_best_candidate():
    scored = simulated(5, sizes=(8, 5))
    scored = scored.with_scores(np.random.default_rng(0).permutation(len(scored)) * 1.0)
    rates = halved_rates(scored, scored.scores, (4, 5, 8), seed=0)
    assert rates[:, 1] == pytest.approx(pass_rates(scored, (5,))[:, 0], abs=0.15)
    assert rates[0, 2] == pass_rates(scored, (8,))[0, 0]
    assert np.isnan(rates[1, 2])


def test_candidates_that_tie_are_dropped_as_often_as_others():
    scored = simulated(1, sizes=(8,))
    ties = np.zeros(len(scored))
    rates = [
        halved_rates(scored.with_scores(ties), ties, (4,), seed=seed)[0, 0] for seed in range(50)
    ]
    assert np.mean(rates) == pytest.approx(scored.is_correct.mean(), abs=0.02)


Prompt = tuple[list[float], list[float]]
SCORE = st.integers(-3, 3).map(float)
PROMPT = st.tuples(st.lists(SCORE, min_size=1, max_size=4), st.lists(SCORE, min_size=1, max_size=4))


def samples(*prompts: Prompt) -> ScoredSamples:
    """Problems of the scores of their correct and of their incorrect answers."""
    scores = [[*right, *wrong] for right, wrong in prompts]
    return ScoredSamples(
        scores=np.concatenate([np.array(one) for one in scores]),
        is_correct=np.concatenate(
            [np.arange(len(right) + len(wrong)) < len(right) for right, wrong in prompts]
        ),
        problem=np.repeat(np.arange(len(prompts)), [len(one) for one in scores]),
        output_tokens=np.ones(sum(map(len, scores)), np.int64),
    )


def margins(prompt: Prompt) -> Margins:
    return Margins.of(np.array(prompt[0]), np.array(prompt[1]))


@given(st.lists(PROMPT, min_size=1, max_size=5), st.randoms())
def test_top_1_is_the_chance_of_picking_a_correct_answer(
    prompts: list[Prompt], random: Any
) -> None:
    scored = samples(*prompts)
    expected = []
    for right, wrong in prompts:
        best = max(*right, *wrong)
        picked = [True] * right.count(best) + [False] * wrong.count(best)
        expected.append(sum(picked) / len(picked))
    assert top_1(scored).tolist() == pytest.approx(expected)
    order = list(range(len(scored)))
    random.shuffle(order)
    mixed = ScoredSamples(
        scores=scored.scores[order],
        is_correct=scored.is_correct[order],
        problem=scored.problem[order],
        output_tokens=scored.output_tokens[order],
    )
    assert top_1(mixed).tolist() == pytest.approx(expected)


def test_the_ties_score_by_hand() -> None:
    references = {"1": margins(([5], [1, 2])), "2": margins(([1], [1]))}
    tied = {
        "1": margins(([4, 5, 6], [1, 3])),
        "2": margins(([3, 3], [0])),
        "9": margins(([0], [1])),
    }
    # accuracy: 2 of 3 tied prompts, 1 of 2 references. Prompt 1: spread 2, above 1, reference 3.
    # Prompt 2: spread 0, above 3, reference 0, so it is preferred, but not by the reference.
    expected = 0.3 * 2 / 3 + 0.3 / 2 + 0.2 / 2 + 0.01 * math.tanh(1 / 2 - 1) / 2
    assert ties_score(references, tied) == pytest.approx(expected)


def test_equal_scores_of_good_answers_far_above_the_rest_are_best() -> None:
    perfect = {"1": margins(([9, 9], [0]))}
    assert ties_score({"1": margins(([9], [0]))}, perfect) == pytest.approx(1.01)
    assert ties_score({}, perfect) is None
    assert ties_score({"2": margins(([9], [0]))}, perfect) is None


def test_scores_equal_those_of_reward_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = load_reward_bench(monkeypatch)
    from datasets import Dataset

    random = np.random.default_rng(0)

    def draw(num_right: int, num_wrong: int) -> Prompt:
        right, wrong = (random.integers(-3, 4, n) / 2 for n in (num_right, num_wrong))
        return (right + 0.5).tolist(), wrong.tolist()

    ranked = [draw(1, 3) for _ in range(60)]
    table = {"scores": [], "text": [], "id": []}  # type: dict[str, list[Any]]
    for place, (right, wrong) in enumerate(ranked):
        for score in (*right, *wrong):
            table["scores"].append(score)
            table["text"].append("")
            table["id"].append(place)
    scored = theirs.reroll_and_score_dataset(Dataset.from_dict(table), [4] * len(ranked))
    assert top_1(samples(*ranked)).tolist() == pytest.approx(list(scored["results"]))

    kinds = {"ref": [draw(1, 4) for _ in range(25)], "tied": [draw(6, 4) for _ in range(25)]}
    rows = [
        {"id": f"{kind}:{n}", "scores": [*right, *wrong], "num_correct": len(right)}
        for kind, prompts in kinds.items()
        for n, (right, wrong) in enumerate(prompts)
    ]
    found = {k: {str(n): margins(one) for n, one in enumerate(v)} for k, v in kinds.items()}
    _, expected = theirs.process_single_model(Dataset.from_list(rows))
    assert ties_score(found["ref"], found["tied"]) == pytest.approx(expected)
