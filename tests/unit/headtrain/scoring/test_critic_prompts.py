"""A critic formats prompts as the features of its head were made."""

import shutil
from pathlib import Path

import pytest

from headtrain.head.checkpoint import CheckpointError
from headtrain.scoring.critic import Critic
from tests.support.scored_projects import ScoredProject, make_project
from tests.unit.headtrain.scoring.test_critic import assert_values_are_those_of_the_store

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% else %}"
    "[{{ m.role }}] {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ mark or '' }}{% endif %}"
)
CHAT = ("prompt.format=chat", "prompt.system=Judge it.", "prompt.end=turn")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoredProject:
    folder = tmp_path_factory.mktemp("project")
    return make_project(folder, *CHAT, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def critic(project: ScoredProject) -> Critic:
    return Critic.load(project.head, device="cpu")


def test_values_are_those_of_the_store(project: ScoredProject, critic: Critic) -> None:
    assert_values_are_those_of_the_store(critic, project)


def test_a_conversation_is_its_text_if_it_has_one_message(critic: Critic) -> None:
    asked = {"role": "user", "content": "Add."}
    assert critic.score([asked], ["x = 1"]) == critic.score("Add.", ["x = 1"])
    turns = [asked, {"role": "assistant", "content": "y"}, {"role": "user", "content": "No."}]
    assert critic.score(turns, ["x = 1"]) != critic.score("No.", ["x = 1"])


def test_another_template_beside_the_backbone_is_refused(
    project: ScoredProject, tmp_path: Path
) -> None:
    model = shutil.copytree(project.model, tmp_path / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE + " ")
    with pytest.raises(CheckpointError, match="another prompt template"):
        Critic.load(project.head, device="cpu", backbone=str(model))


def test_a_head_of_texts_refuses_a_conversation(tmp_path: Path) -> None:
    critic = Critic.load(make_project(tmp_path).head, device="cpu")
    asked = {"role": "user", "content": "a"}
    assert critic.score([asked], ["b"]) == critic.score("a", ["b"])
    with pytest.raises(ValueError, match="'prompt'"):
        critic.score([asked, {"role": "assistant", "content": "c"}, asked], ["b"])
