"""The shapes of frameworks and servers that the endpoints answer in."""

import json
import math
from typing import Any

import pytest

from featurize.data.prompt import render_prompt
from headtrain.scoring.critic import Critic
from headtrain.scoring.texts import TextRules
from tests.support.critic_apps import RunningApp, ask, logits, talk
from tests.support.scored_projects import make_project
from tests.unit.headtrain.scoring.test_critic_prompts import CHAT, TEMPLATE


def test_openrlhf_gets_rewards_scores_and_logs(critic: Critic) -> None:
    body = {
        "query": ["<u>Add.<a>x = 1</s>", "<u>Sum.<a>y = 2"],
        "prompts": ["<u>Add.<a>", "<u>Sum.<a>"],
        "labels": ["", ""],
        "metas": [None, None],
    }
    rules = TextRules(policy_template="<u>{prompt}<a>", ends=("</s>",))
    reply = ask(critic, "/get_reward", body, rules=rules)
    expected = logits(critic, "Add.", ["x = 1"]) + logits(critic, "Sum.", ["y = 2"])
    assert reply["rewards"] == pytest.approx(expected, abs=1e-4)
    assert reply["scores"] == pytest.approx([1 / (1 + math.exp(-x)) for x in expected], abs=1e-4)
    assert list(reply["extra_logs"]) == ["critic_value"]


def test_openrlhf_with_nothing_to_score_gets_empty_lists(critic: Critic) -> None:
    reply = ask(critic, "/get_reward", {"query": [], "prompts": [], "labels": []})
    assert reply == {"rewards": [], "scores": [], "extra_logs": {"critic_value": []}}


def test_openrlhfs_query_without_its_prompt_is_an_error_of_that_sample(critic: Critic) -> None:
    body = {"query": ["Add.x = 1", "Other"], "prompts": ["Add.", "Add."], "labels": []}
    reply = ask(critic, "/get_reward", body)
    assert reply["rewards"] == [pytest.approx(logits(critic, "Add.", ["x = 1"])[0]), None]
    assert "query 'Other'" in reply["errors"][1]


def test_slime_gets_a_number(critic: Critic) -> None:
    for prompt in ("Add.", [{"role": "user", "content": "Add."}]):
        reply = ask(critic, "/rm", {"prompt": prompt, "response": "x = 1", "label": None})
        assert reply == pytest.approx(logits(critic, "Add.", ["x = 1"])[0], abs=1e-4)


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_verl_reads_the_logit_of_its_text_from_vllms_shape(critic: Critic, path: str) -> None:
    text = render_prompt("Add.") + "x = 1"
    body = {"model": "any", "input": text, "use_activation": False}
    reply = ask(critic, path, body)
    [logit] = logits(critic, "Add.", ["x = 1"])
    assert reply["data"][-1]["probs"][-1] == pytest.approx(logit, abs=1e-4)
    assert reply["data"][-1].keys() >= {"index", "label", "num_classes"}
    chat = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "x = 1"}]
    for shape in ({"input": [text, text]}, {"messages": chat}):
        found = ask(critic, path, shape)["data"][-1]["probs"][-1]
        assert found == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-4)


def test_verl_reads_the_logit_of_its_text_from_sglangs_shapes(critic: Critic) -> None:
    text = render_prompt("Add.") + "x = 1"
    expected = pytest.approx(logits(critic, "Add.", ["x = 1"])[0], abs=1e-4)
    reply = ask(critic, "/v1/embeddings", {"model": "any", "input": text})
    assert reply["data"][-1]["embedding"][-1] == expected
    assert ask(critic, "/classify", {"text": text})["embedding"] == [expected]
    assert ask(critic, "/classify", {"text": [text]})[0]["embedding"] == [expected]


@pytest.mark.parametrize("names", [("prompt", "candidates"), ("query", "documents")], ids=" ".join)
def test_candidates_come_back_in_order_of_value(critic: Critic, names: tuple[str, str]) -> None:
    outputs = ["x = 1", "return !", "return ?", " "]
    reply = ask(critic, "/rerank", {names[0]: "Add.", names[1]: outputs})
    values = critic.score("Add.", outputs[:3])
    order = sorted(range(3), key=lambda n: -values[n])
    assert [one["index"] for one in reply["results"]] == order
    assert [one["document"]["text"] for one in reply["results"]] == [outputs[n] for n in order]
    assert "empty" in reply["errors"][3]
    first = ask(critic, "/v1/rerank", {"query": "Add.", "documents": outputs, "top_n": 1})
    assert [one["index"] for one in first["results"]] == order[:1]


def test_models_are_listed_as_openai_does(critic: Critic) -> None:
    async def say(app: RunningApp) -> Any:
        return (await app.client.get("/v1/models")).json()

    reply = talk(critic, say)
    assert (reply["object"], [one["id"] for one in reply["data"]]) == ("list", ["tiny"])
    assert json.dumps(reply)


TURNS = [
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": "y"},
    {"role": "user", "content": "No."},
]


@pytest.fixture(scope="module")
def chat_critic(tmp_path_factory: pytest.TempPathFactory) -> Critic:
    head = make_project(tmp_path_factory.mktemp("chat"), *CHAT, chat_template=TEMPLATE).head
    return Critic.load(head, device="cpu")


def test_a_conversation_gets_the_value_of_all_its_turns(chat_critic: Critic) -> None:
    [value] = chat_critic.score(TURNS, ["x = 1"])
    reply = ask(chat_critic, "/score", {"messages": TURNS, "outputs": ["x = 1"]})
    assert reply["values"] == [pytest.approx(value, abs=1e-5)]
    chat = [*TURNS, {"role": "assistant", "content": "x = 1"}]
    reply = ask(chat_critic, "/classify", {"messages": chat, "use_activation": False})
    assert reply["data"][0]["probs"] == [pytest.approx(2 * value + 0.5, abs=1e-4)]


def test_a_text_in_the_default_template_is_not_a_chat_heads(chat_critic: Critic) -> None:
    body = {"input": render_prompt("Add.") + "x = 1"}
    reply = ask(chat_critic, "/classify", body, status=422)
    assert "not this head's" in reply["error"]
