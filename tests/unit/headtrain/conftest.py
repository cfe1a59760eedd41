"""A project and its critic, made once: the tests here read them only."""

import pytest

from headtrain.scoring.critic import Critic
from tests.support.scored_projects import ScoredProject, make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoredProject:
    return make_project(tmp_path_factory.mktemp("project"), num_members=2)


@pytest.fixture(scope="session")
def critic(project: ScoredProject) -> Critic:
    return Critic.load(project.head, device="cpu")
