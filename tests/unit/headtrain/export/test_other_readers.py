"""An exported linear head, read by TRL and sentence-transformers where they are installed.

Both join prompt and output in their own way; the values are the critic's of the ids they make.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from featurize.data.prompt import render_prompt
from headtrain.export.transformers_folder import Exported, export_to_transformers
from headtrain.head.checkpoint import load_head
from headtrain.scoring.critic import Critic
from headtrain.scoring.provenance import Provenance
from tests.support.grpo import logged_rewards, run_grpo
from tests.support.scored_projects import ScoredProject, make_project

pytestmark = pytest.mark.slow

PROMPT = "Read two numbers and print their sum."
OUTPUTS = ["return a + b", "print(1)\n", "x = 1\nfor i in range(3):\n    print(i)"]


@pytest.fixture
def project(tmp_path: Path) -> ScoredProject:
    return make_project(
        tmp_path / "project",
        "featurize.likelihood=false",
        tensors=["last.3"],
        spec={"head_type": "linear"},
    )


def export(project: ScoredProject, out: Path) -> Exported:
    head = load_head(project.head)
    found = Provenance.of(head).find(torch.device("cpu"), out.parent / "cache")
    return export_to_transformers(head, found, out)


def values_of(project: ScoredProject, sequences: Sequence[list[int]]) -> list[float]:
    """The critic's values of whole sequences; a head on the last token sees no border in them."""
    critic = Critic.load(project.head, device="cpu")
    return [value for ids in sequences for value in critic.score(ids[:-1], [ids[-1:]])]


def test_a_cross_encoder_gives_the_values_of_the_critic(
    project: ScoredProject, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    exported = export(project, tmp_path / "out")
    encoder = library.CrossEncoder(str(tmp_path / "out"), device="cpu")
    prompt = render_prompt(PROMPT)
    pairs = [(prompt, output) for output in OUTPUTS]
    logits = encoder.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=3)
    found = [float(logit) + exported.offset for logit in logits]
    ids = [encoder.tokenizer(*pair)["input_ids"] for pair in pairs]
    assert found == pytest.approx(values_of(project, ids), abs=1e-4)


def test_trl_takes_the_folder_as_a_reward_model(project: ScoredProject, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    model = tmp_path / "model"
    exported = export(project, model)
    trainer = run_grpo(tmp_path, str(model), [{"prompt": PROMPT}] * 4)
    assert len(logged_rewards(trainer)) == 2
    prompt = render_prompt(PROMPT)
    found = trainer._calculate_rewards([{}] * 3, [prompt] * 3, OUTPUTS, [[1]] * 3)[:, 0].tolist()
    words = AutoTokenizer.from_pretrained(model)
    ids = [words(prompt + output, add_special_tokens=False)["input_ids"] for output in OUTPUTS]
    assert [one + exported.offset for one in found] == pytest.approx(
        values_of(project, ids), abs=1e-4
    )
