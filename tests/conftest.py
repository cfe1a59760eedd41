"""How the tests are shared out among processes."""

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the integration tests of a file together: their fixtures run whole commands."""
    for item in items:
        if item.path.parent.name == "integration":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
