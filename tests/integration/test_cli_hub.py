"""Datasets on the Hub, by a double of it on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.datasets_by_uri import ROWS, to_lines
from tests.support.hub_server import TOKEN, hub_server

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_private_dataset_needs_a_token_and_says_so(tmp_path: Path, token: str | None):
    with hub_server() as hub:
        hub.files["me/code"] = {"train.jsonl": to_lines(ROWS)}
        hub.private.add("me/code")
        environment = os.environ | {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        environment.pop("HF_TOKEN", None)
        done = subprocess.run(
            [sys.executable, "-m", "cli", "prepare", "columns", "--out", "out.jsonl",
             "--source", "hf://datasets/me/code/train.jsonl"],
            cwd=tmp_path, env=environment | ({"HF_TOKEN": token} if token else {}),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if token is None:
        assert done.returncode == 2
        assert "hf://datasets/me/code/train.jsonl" in done.stderr
        assert "set HF_TOKEN" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(ROWS)
        assert "ETag" not in done.stderr
