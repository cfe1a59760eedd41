"""Top 1 and the Ties score of RewardBench 2: by hand, and against its own functions."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headtrain.metrics.best_answer import Margins, ties_score, top_1
from headtrain.metrics.pairwise import ScoredSamples
from tests.support.benchmark_rows import load_reward_bench

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


def test_answers_that_share_the_highest_score_share_the_problem() -> None:
    found = top_1(samples(([2], [1, 0]), ([1], [2, 0]), ([1], [1, 1, 1]), ([1, 1], [1, 0])))
    assert found.tolist() == pytest.approx([1, 0, 1 / 4, 2 / 3])


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
