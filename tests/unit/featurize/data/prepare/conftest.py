"""What the tests of prepared datasets share."""

from pathlib import Path

import pytest

from tests.support.mapped_columns import Columns


@pytest.fixture
def columns(tmp_path: Path) -> Columns:
    return Columns(tmp_path)
