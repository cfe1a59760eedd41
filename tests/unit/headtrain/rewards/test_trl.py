"""Two steps of TRL's GRPO with a critic as its reward; skipped where trl is not installed."""

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from headtrain import rewards
from headtrain.rewards import reward_of_environment
from headtrain.scoring.critic import Critic
from headtrain.scoring.server.run import Server
from tests.support.critic_apps import running
from tests.support.grpo import logged_rewards, run_grpo
from tests.support.scored_projects import make_project

pytestmark = pytest.mark.slow


def train(folder: Path, reward: Any, rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Train a tiny policy for two steps; return what was logged at each."""
    return logged_rewards(run_grpo(folder, reward, rows))


def test_two_steps_of_grpo_await_the_rewards_of_a_server(tmp_path: Path) -> None:
    head = make_project(tmp_path / "project").head
    server = Server(lambda: Critic.load(head, device="cpu"), model="m", host="127.0.0.1", port=0)
    with running(server):
        reward: Any = rewards.critic_reward(url=server.url, scale="group_rank")
        logged = train(tmp_path, reward, [{"prompt": f"Solve task {n}"} for n in range(4)])
    assert [entry["step"] for entry in logged] == [1, 2]
    assert 0 <= logged[0]["rewards/critic_reward/mean"] <= 1
    assert server.service.describe()["samples judged"] == reward.counts["judged"] > 0


@pytest.mark.parametrize("kind", ["texts", "messages", "environment"])
def test_two_steps_of_grpo_have_finite_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    project = make_project(tmp_path / "project")
    prompts: list[Any] = [f"Solve task {n}" for n in range(4)]
    if kind == "messages":
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    reward: Any = rewards.critic_reward(str(project.head), "probability", device="cpu")
    if kind == "environment":
        monkeypatch.setenv("CRITIC_HEAD", str(project.head))
        reward_of_environment.cache_clear()
        reward = rewards.trl
    logged = train(tmp_path, reward, [{"prompt": prompt} for prompt in prompts])
    name = "trl" if kind == "environment" else "critic_reward"
    assert [entry["step"] for entry in logged] == [1, 2]
    assert all(math.isfinite(entry[f"rewards/{name}/mean"]) for entry in logged)
    if kind != "environment":
        assert reward.counts["judged"] > 0
