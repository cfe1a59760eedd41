"""Fixtures for tests of transfers: no waits between tries, a folder in memory, an S3 server."""

import uuid
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.support.s3_server import Wire, s3_server


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were skipped, in seconds."""
    waits: list[float] = []
    # NOTE: not time.sleep itself, which threads of other tests use, too.
    monkeypatch.setattr("featurize.io.remote.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def folder() -> str:
    """The URI of a new folder in memory."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """A connection to an S3 server that can be cut."""
    with s3_server() as wire:
        yield wire
