"""What a configuration with mistakes is told."""

from pathlib import Path

import pytest

from configs.loader import ConfigError, load_config

SHORT = """
experiment:
  name: short
models:
  policy: {name: tiny, path: tiny}
dataset:
  name: few
"""


def problems_of(path: Path | None, *overrides: str) -> list[str]:
    """The lines of the error, with the folder of a temporary file cut off."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    folder = f"{path.parent}/" if path else ""
    return [line.removeprefix(folder) for line in str(caught.value).splitlines()]


def demo_problem(override: str) -> str:
    (line,) = problems_of(Path("demo.yaml"), override)
    return line
