"""A head of a chat template is served with conversations; a text in another template is refused."""

import asyncio
from typing import Any

import pytest

from featurize.data.prompt import render_prompt
from headtrain.scoring.critic import Critic
from tests.support.critic_apps import running_app
from tests.support.scored_projects import make_project
from tests.unit.headtrain.scoring.test_critic_prompts import CHAT, TEMPLATE

TURNS = [
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": "y"},
    {"role": "user", "content": "No."},
]


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Critic:
    folder = tmp_path_factory.mktemp("project")
    head = make_project(folder, *CHAT, chat_template=TEMPLATE).head
    return Critic.load(head, device="cpu")


def ask(critic: Critic, path: str, body: Any) -> tuple[int, Any]:
    async def run() -> tuple[int, Any]:
        async with running_app(lambda: critic, scale="value") as app:
            response = await app.post(path, body)
            return response.status_code, response.json()

    return asyncio.run(run())


def test_a_conversation_gets_the_value_of_all_its_turns(critic: Critic) -> None:
    [value] = critic.score(TURNS, ["x = 1"])
    status, reply = ask(critic, "/score", {"messages": TURNS, "outputs": ["x = 1"]})
    assert (status, reply["values"]) == (200, [pytest.approx(value, abs=1e-5)])
    chat = [*TURNS, {"role": "assistant", "content": "x = 1"}]
    status, reply = ask(critic, "/classify", {"messages": chat, "use_activation": False})
    assert reply["data"][0]["probs"] == [pytest.approx(2 * value + 0.5, abs=1e-4)]


def test_a_text_in_the_default_template_is_not_this_heads(critic: Critic) -> None:
    body = {"input": render_prompt("Add.") + "x = 1"}
    status, reply = ask(critic, "/classify", body)
    assert status == 422
    assert "not this head's" in reply["error"]
