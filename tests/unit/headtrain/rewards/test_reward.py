"""Rewards of completions: the critic's numbers, grouped by prompt, every other one counted."""

import asyncio
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurize.errors import CriticError
from headtrain.rewards import critic_reward, judging
from headtrain.scoring.critic import Critic
from headtrain.scoring.texts import last_block
from tests.support.processes import run_python
from tests.support.scored_projects import ScoredProject

ROOT = Path(__file__).parents[4]


PROMPTS = ["Add.", "Sum.", "Add.", "Add."]
COMPLETIONS = ["x = 1", "x = 1", "return !", "return ?"]


def values(critic: Critic) -> list[float]:
    return [critic.score(p, [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]


def test_rewards_are_on_the_scale_that_is_asked_for(project: ScoredProject, critic: Critic) -> None:
    found = {
        scale: critic_reward(str(project.head), scale, device="cpu")(PROMPTS, COMPLETIONS)
        for scale in ("value", "logit", "probability", "group_rank")
    }
    expected = values(critic)
    verdicts = [critic.judge(p, [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert found["value"] == pytest.approx(expected, abs=1e-5)
    assert found["logit"] == pytest.approx([2 * v + 0.5 for v in expected], abs=1e-4)
    assert found["probability"] == pytest.approx([v.probability for v in verdicts], abs=1e-5)
    group = [expected[0], *expected[2:]]
    ranks = [sum(v < one for v in group) / 2 for one in group]
    assert found["group_rank"] == [ranks[0], 0.5, *ranks[1:]]


def test_equal_completions_share_their_rank(project: ScoredProject) -> None:
    reward = critic_reward(str(project.head), "group_rank", device="cpu")
    assert reward(["Add."] * 3, ["x = 1"] * 3) == [0.5, 0.5, 0.5]


def test_messages_get_the_reward_of_their_texts(project: ScoredProject, critic: Critic) -> None:
    reward = critic_reward(str(project.head), "value", device="cpu")
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    completions = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    assert reward(prompts, completions) == pytest.approx(values(critic), abs=1e-5)


@pytest.mark.parametrize("floor", [None, -3.0])
def test_a_completion_without_a_judgement_gets_the_floor_and_is_counted(
    project: ScoredProject, floor: float | None
) -> None:
    reward = critic_reward(str(project.head), "probability", floor=floor, fenced=True, device="cpu")
    block = "```python\n{}\n```"
    completions = [
        block.format("x = 1"), "no code here", block.format("x = 1\n" * 400), block.format(" "), "",
        block.format("\ud800"),
    ]  # fmt: skip
    logged: dict[str, float] = {}
    found = reward(["Add."] * 6, completions, log_metric=logged.__setitem__)
    assert found[0] is not None
    assert 0 < found[0] < 1
    assert found[1:] == [floor] * 5
    assert reward.counts == {"judged": 1, "no_code": 1, "too_long": 1, "empty": 2, "refused": 1}
    assert logged["critic/empty"] == pytest.approx(2 / 6)


def test_the_code_is_the_last_complete_block() -> None:
    text = "First\n```python\na = 1\n```\nthen\n~~~\nb = 2\n```\nc\n~~~\nand\n```\nnot closed"
    assert last_block(text) == "b = 2\n```\nc\n"
    assert last_block("````md\n```\nx\n```\n````") == "```\nx\n```\n"
    assert last_block("```python\nx = 1") is None


@given(st.text(alphabet="`~x\n ", max_size=40))
def test_any_text_has_a_last_block_or_none(text: str) -> None:
    found = last_block(text)
    assert found is None or found in text


def test_what_a_reward_is_asked_about_must_make_sense(project: ScoredProject) -> None:
    reward = critic_reward(str(project.head), device="cpu")
    with pytest.raises(CriticError, match="2 prompts and 1 completions"):
        reward(["a", "b"], ["c"])
    for prompt in ([{"role": "user"}], [5], None):
        with pytest.raises(CriticError, match="'role' and 'content'"):
            reward([prompt], ["c"])  # type: ignore[list-item]
    assert reward([[{"role": "assistant", "content": "x"}]], ["c"]) == [None]
    assert reward.counts == {"refused": 1}
    with pytest.raises(CriticError, match="must be a text"):
        reward(["a"], [[{"role": "assistant", "content": 5}]])
    assert reward([], []) == []


def test_arrays_get_the_reward_of_their_lists(project: ScoredProject, critic: Critic) -> None:
    reward = critic_reward(str(project.head), "value", device="cpu")
    messages = [np.array([{"role": "user", "content": prompt}], object) for prompt in PROMPTS]
    assert reward(messages, COMPLETIONS) == pytest.approx(values(critic), abs=1e-5)
    found = reward(np.array(PROMPTS), np.array(COMPLETIONS))  # type: ignore[arg-type]
    assert found == pytest.approx(values(critic), abs=1e-5)


def test_parts_of_text_get_the_reward_of_the_text(project: ScoredProject, critic: Critic) -> None:
    reward = critic_reward(str(project.head), "value", device="cpu")
    parts = [{"type": "text", "text": "x = "}, {"type": "text", "text": "1"}]
    found = reward(["Add."], [[{"role": "assistant", "content": parts}]])
    assert found == pytest.approx(critic.score("Add.", ["x = 1"]), abs=1e-5)


@pytest.mark.parametrize("completion", [5, [None], ["x"], {"role": "assistant"}, b"x"])
def test_a_completion_of_another_shape_is_refused(project: ScoredProject, completion: Any) -> None:
    with pytest.raises(CriticError, match="a completion is"):
        critic_reward(str(project.head), device="cpu")(["a"], [completion])


@pytest.mark.parametrize(("prompts", "completions"), [("ab", ["x", "y"]), (["a"], "x"), (None, [])])
def test_prompts_and_completions_are_lists(
    project: ScoredProject, prompts: Any, completions: Any
) -> None:
    with pytest.raises(CriticError, match="it must be a list"):
        critic_reward(str(project.head), device="cpu")(prompts, completions)


@pytest.mark.parametrize("floor", [float("nan"), float("inf"), "0", True])
def test_a_floor_is_a_finite_number(floor: Any) -> None:
    with pytest.raises(CriticError, match="the floor is"):
        critic_reward("head", floor=floor)


@pytest.mark.parametrize(
    ("status", "reply"),
    [
        (200, {"detail": "Not here"}),
        (200, []),
        (200, {"values": [1.0, 2.0], "errors": None}),
        (422, {"detail": []}),
        (422, {"errors": ["a", "b"]}),
    ],
)
def test_a_reply_of_another_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, status: int, reply: Any
) -> None:
    monkeypatch.setattr(judging, "_ask", lambda url, body: (status, reply))
    with pytest.raises(CriticError, match="is not one of `critic serve`"):
        judging.judge_group("http://there", judging.Group(prompt="a", outputs=["x"]))


def test_a_reward_needs_a_head_and_a_known_scale() -> None:
    with pytest.raises(CriticError, match="CRITIC_HEAD"):
        critic_reward()
    with pytest.raises(CriticError, match=r"'odds'.*logit, probability"):
        critic_reward("head", "odds")  # type: ignore[arg-type]


def test_a_reward_survives_pickling(project: ScoredProject) -> None:
    reward = critic_reward(str(project.head), "value", device="cpu")
    before = reward(PROMPTS, COMPLETIONS)
    again = pickle.loads(pickle.dumps(reward))  # what ray and multiprocessing do
    assert again(PROMPTS, COMPLETIONS) == before
    assert again.__name__ == "critic_reward"


def test_with_a_server_it_is_a_coroutine_function_as_trl_looks_for_one() -> None:
    reward: Any = critic_reward(url="http://127.0.0.1:1")
    assert inspect.iscoroutinefunction(reward.__call__)
    assert asyncio.run(reward([], [])) == []
    assert not inspect.iscoroutinefunction(critic_reward("head").__call__)


def test_a_trainer_that_asks_a_server_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from headtrain.rewards import critic_reward, trl, verl, slime, verifiers\n"
        "critic_reward(url='http://127.0.0.1:1')\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")
