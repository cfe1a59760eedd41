"""A small dataset, put where a URI leads, and the copies that reading it leaves."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

ROWS = [
    {"instruction": f"Task {n // 2}", "output": f"print({n})", "is_correct": n % 2 == 0}
    for n in range(8)
]


def to_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def put(uri: str, content: bytes) -> str:
    files, path = fsspec.core.url_to_fs(uri)
    files.pipe_file(path, content)
    return uri


def copies(cache: Path) -> list[Path]:
    found = (cache / "datasets").rglob("*")
    return sorted(path for path in found if path.is_file() and path.name != "lock")


def without_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing waits before it tries again; returns how long it would have waited."""
    waits: list[float] = []
    monkeypatch.setattr("featurize.io.remote.time", SimpleNamespace(sleep=waits.append))
    return waits
