"""What all commands run with."""

from collections.abc import Iterator

import pytest

from tests.support.command_line import WarmCritic


@pytest.fixture(scope="session")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCritic]:
    """One warm process for all files, as its imports take seconds."""
    critic = WarmCritic(tmp_path_factory.mktemp("home"))
    yield critic
    critic.close()
