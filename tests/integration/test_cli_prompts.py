"""A chat template, conversations and a question, from rows to scores, as a user runs them."""

import re
from typing import Any

import pytest

from featurize.store import FeatureStore
from tests.support.command_line import CriticProject, WarmCritic
from tests.support.row_files import read_rows, write_rows
from tests.support.tiny_project import make_rows, options, write_project

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% else %}"
    "[{{ m.role }}] {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ mark or '' }}{% endif %}"
)
PROMPT = (
    "prompt.format=jinja",
    "prompt.template=chat.jinja",
    "prompt.end=turn",
    "prompt.question=Is it right?",
    'prompt.answers=["Y","N"]',
    "featurize.poolings=[mean,last,first,delta]",
    "dataset.validation=null",
)
HEAD = ("--head", "storage/checkpoints/critic/demo")


def to_conversation(row: dict[str, Any]) -> dict[str, Any]:
    """The same row with its statement as the last turn of a conversation."""
    turns = [
        {"role": "system", "content": "You solve tasks."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello </s>."},
        {"role": "user", "content": row["instruction"]},
    ]
    return {**row, "instruction": turns}


@pytest.fixture(scope="module")
def project(critic: WarmCritic, tmp_path_factory: pytest.TempPathFactory) -> CriticProject:
    """A folder with a template, rows of conversations and a head of them."""
    folder = write_project(tmp_path_factory.mktemp("prompts"), num_train=8, num_valid=2)
    (folder / "chat.jinja").write_text(TEMPLATE)
    write_rows(folder / "train.jsonl", map(to_conversation, make_rows("train", 8)))
    project = CriticProject(folder=folder, critic=critic)
    for command in ("featurize --split train", "train-head --pairs 60"):
        project.run(*command.split(), *options(*PROMPT))
    return project


def test_the_store_has_the_question_and_the_answers(project: CriticProject) -> None:
    store = FeatureStore.open(project.folder / "storage/features/demo/train")
    assert {"first.1", "delta.1", "question.1"} <= set(store.manifest.tensors)
    assert {"yes_logprob", "no_logprob"} <= set(store.samples.column_names)
    assert max(store.samples["yes_logprob"].to_pylist()) < 0
    assert store.manifest.recipe["prompt"]["question"] == "Is it right?"
    assert store.manifest.counts["prompts"] == 8


def test_a_head_scores_conversations_without_its_template_file(project: CriticProject) -> None:
    (project.folder / "chat.jinja").rename(project.folder / "moved.jinja")
    project.run("score", "train.jsonl", "--out", "scored.jsonl", *HEAD)
    rows = read_rows(project.folder / "scored.jsonl")
    assert rows[0]["instruction"][0]["role"] == "system"
    assert len({row["score"] for row in rows}) > 10
    (project.folder / "moved.jinja").rename(project.folder / "chat.jinja")


def test_a_head_and_the_answer_are_judged_on_pairs_of_conversations(project: CriticProject) -> None:
    rows = make_rows("other", 3)
    pairs = []
    for problem in {row["problem_id"] for row in rows}:
        own = [row for row in rows if row["problem_id"] == problem]
        texts = {row["is_correct"]: row["output"] for row in own}
        turns = to_conversation(own[0])["instruction"]
        pairs.append(
            {
                "prompt": turns,
                "chosen": [{"role": "assistant", "content": texts[True]}],
                "rejected": [{"role": "assistant", "content": texts[False]}],
            }
        )
    write_rows(project.folder / "pairs.jsonl", pairs)
    project.run("eval", "--data", "pairs.jsonl", *HEAD)
    (written,) = project.folder.glob("storage/evaluation/demo/data-pairs-*.json")
    assert '"probability_of_yes"' in written.read_text()
    assert "probability of yes" in written.with_suffix(".html").read_text()


def test_prompts_are_shown_token_by_token(project: CriticProject) -> None:
    outcome = project.run("audit", "--prompts", "1", *options(*PROMPT))
    assert "-- prompt, " in outcome.out
    assert re.search(r"-- end, 1 tokens: .*\n</s>│", outcome.out)
    assert "-- question, " in outcome.out


def test_a_store_of_another_prompt_is_refused(project: CriticProject) -> None:
    other = options(*PROMPT, "prompt.end=none")
    outcome = project.run("train-head", "--pairs", "60", *other, code=2)
    assert "'end': 'turn'" in outcome.err


def test_a_template_that_cannot_be_read_is_refused(project: CriticProject) -> None:
    missing = options(*PROMPT, "prompt.template=no.jinja")
    outcome = project.run("audit", "--prompts", "1", *missing, code=2)
    assert "prompt.template: 'no.jinja' cannot be read" in outcome.err
