"""A pushed head is loaded from the Hub with the same values, by a double of it on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headtrain.scoring.critic import Critic
from tests.support.hub_server import TOKEN, hub_server
from tests.support.scored_projects import make_project

ROOT = Path(__file__).parents[4]
PUSH = """
import sys
from headtrain.export.head_folder import push_head
from headtrain.head.checkpoint import load_head
print(push_head(load_head(sys.argv[1]), "me/judge", verdict=[("accuracy", "0.75")]))
"""
LOAD = """
import sys
from headtrain.scoring.critic import Critic
critic = Critic.load("hf://me/judge", device="cpu", backbone=sys.argv[1])
print(critic.score("Add.", ["return a + b"]))
"""


def run(code: str, argument: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(argument)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_pushed_head_is_loaded_from_the_hub(tmp_path: Path) -> None:
    project = make_project(tmp_path, "featurize.likelihood=false", tensors=["mean.1"])
    with hub_server() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT),
            "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
        }  # fmt: skip
        pushed = run(PUSH, project.head, environment)
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.splitlines()[-1] == "hf://me/judge"
        files = hub.files["me/judge"]
        assert set(files) == {"README.md", "head.json", "head.safetensors"}
        assert "me/judge" in hub.private
        card = files["README.md"].decode()
        assert "| accuracy | 0.75 |" in card
        assert "license_name: to-be-chosen" in card
        assert json.loads(files["head.json"])["folder"] == ""
        assert b"critic_recipe_fingerprint" in files["head.safetensors"][:2000]
        loaded = run(LOAD, project.model, environment)
        assert loaded.returncode == 0, loaded.stderr
        wanted = Critic.load(project.head, device="cpu").score("Add.", ["return a + b"])
        assert json.loads(loaded.stdout.splitlines()[-1]) == pytest.approx(wanted, abs=1e-5)
        refused = run(PUSH, project.head, environment | {"HF_TOKEN": "hf_other"})
    assert refused.returncode != 0
    assert "set HF_TOKEN to a token that may write" in refused.stderr
