"""The functions that verl, OpenRLHF, slime, verifiers and TRL call, as they call them."""

import asyncio
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_origin

import numpy as np
import pytest
import torch

from featurize.errors import CriticError
from headtrain import rewards
from headtrain.rewards import openrlhf, reward_of_environment, slime, verifiers, verl
from headtrain.scoring.critic import Critic
from tests.support.scored_projects import ScoredProject

TEXTS = ["x = 1", "return !"]


@pytest.fixture
def expected(
    project: ScoredProject, critic: Critic, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[float]]:
    """The logits of TEXTS as answers to "Add.", with the head in the environment."""
    monkeypatch.setenv("CRITIC_HEAD", str(project.head))
    monkeypatch.setenv("CRITIC_DEVICE", "cpu")
    reward_of_environment.cache_clear()
    values = critic.score("Add.", TEXTS)
    yield [pytest.approx(2 * value + 0.5, abs=1e-4) for value in values]
    reward_of_environment.cache_clear()


def test_trl_names_one_function_with_prompts_and_completions(expected: list[float]) -> None:
    found = rewards.trl(prompts=["Add."] * 2, completions=TEXTS, completion_ids=[[1], [2]])
    assert found == expected
    assert rewards.trl(["Add."], [" "]) == [None]


def test_verl_passes_one_solution_and_its_problem_in_extra_info(
    expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(verl.__file__)  # verl loads the file by its path
    spec = importlib.util.spec_from_file_location("custom_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    info: dict[str, Any] = {"question": "Add.", "num_turns": None}
    found = [
        module.compute_score(data_source="x", solution_str=text, ground_truth=None, extra_info=info)
        for text in TEXTS
    ]
    assert found == expected
    messages = [{"role": "user", "content": "Add."}]
    assert module.compute_score("x", TEXTS[0], None, {"prompt": messages}) == expected[0]
    assert module.compute_score("x", " ", None, info) == -10.0
    monkeypatch.setenv("CRITIC_PROMPT_KEY", "task")
    assert module.compute_score("x", TEXTS[0], None, {"task": "Add."}) == expected[0]
    with pytest.raises(CriticError, match=r"\['question'\].*\['task'\].*CRITIC_PROMPT_KEY"):
        module.compute_score("x", TEXTS[0], None, {"question": "Add."})


def test_openrlhf_passes_queries_that_begin_with_their_prompts(
    expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITIC_POLICY_TEMPLATE", "<u>{prompt}<a>")
    monkeypatch.setenv("CRITIC_END", "</s>\n<|end|>")
    queries = [f"<u>Add.<a>{text}</s>" for text in TEXTS]
    found = openrlhf.reward_func(queries, ["<u>Add.<a>"] * 2, ["", ""])
    assert found["rewards"].tolist() == expected
    assert torch.equal(found["scores"], found["rewards"].sigmoid())
    assert found["extra_logs"]["critic_reward"].shape == (2,)
    with pytest.raises(CriticError, match=r"query 'Add\.'"):
        openrlhf.reward_func(["Add."], ["<u>Add.<a>"], [""])


def test_slime_passes_a_sample_or_a_list_of_them(expected: list[float]) -> None:
    samples = [SimpleNamespace(prompt="Add.", response=text, label=None) for text in TEXTS]
    assert asyncio.run(slime.custom_rm(None, samples)) == expected
    samples[0].prompt = [{"role": "user", "content": "Add."}]
    assert asyncio.run(slime.custom_rm(None, samples[0])) == expected[0]


def test_verifiers_knows_the_group_function_by_its_parameters(expected: list[float]) -> None:
    prompt = [{"role": "user", "content": "Add."}]
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS]
    found = asyncio.run(verifiers.critic_rewards([prompt] * 2, completions))
    assert found == expected
    assert asyncio.run(verifiers.critic_reward(prompt, completions[1])) == expected[1]
    group = inspect.signature(verifiers.critic_rewards)
    assert {"prompts", "completions"} == set(group.parameters)
    single = inspect.signature(verifiers.critic_reward)
    assert get_origin(single.return_annotation) is None


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("CRITIC_FLOOR", "low", "CRITIC_FLOOR is 'low'"),
        ("CRITIC_FLOOR", "nan", "CRITIC_FLOOR is 'nan'"),
        ("CRITIC_FLOOR", "-inf", "CRITIC_FLOOR is '-inf'"),
        ("CRITIC_SCALE", "odds", "'odds'"),
        ("CRITIC_SCALE", "value", "set CRITIC_FLOOR"),
        ("CRITIC_FENCED", "maybe", "CRITIC_FENCED is 'maybe'"),
        ("CRITIC_HEAD", "", "CRITIC_HEAD or CRITIC_URL"),
    ],
)
def test_a_wrong_variable_is_named(
    expected: list[float], monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    reward_of_environment.cache_clear()
    with pytest.raises(CriticError, match=told):
        verl.compute_score("x", "y", None, {"prompt": "Add."})


def test_verl_may_pass_the_messages_of_parquet_but_no_text(expected: list[float]) -> None:
    messages = np.array([{"role": "user", "content": "Add."}], object)
    found = [verl.compute_score("x", text, None, {"prompt": messages}) for text in TEXTS]
    assert found == expected
    with pytest.raises(CriticError, match=r"extra_info is 'Add\.'"):
        verl.compute_score("x", "y", None, "Add.")  # type: ignore[arg-type]


def test_openrlhf_must_pass_a_prompt_per_query(expected: list[float]) -> None:
    with pytest.raises(CriticError, match="2 queries and 1 prompts"):
        openrlhf.reward_func(["Add.x", "Add.y"], ["Add."], ["", ""])
