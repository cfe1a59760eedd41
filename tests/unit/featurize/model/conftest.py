"""Tiny models on disk, written once for the tests of this room, which leave them as they are."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.tiny_models import write_tiny_model

Folders = Callable[[str], Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folder of the tiny model of a family."""

    @cache
    def folder_of(family: str) -> Path:
        return write_tiny_model(tmp_path_factory.mktemp(family) / family, family, adds_bos=True)

    return folder_of


@pytest.fixture(scope="session")
def llama(folders: Folders) -> Path:
    return folders("llama")
