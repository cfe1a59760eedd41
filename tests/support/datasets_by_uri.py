"""A small dataset at a URI, and the copies that reading it leaves in the cache."""

import json
from pathlib import Path
from typing import Any

import fsspec

from featurize.io.files import LOCK_FILE

ROWS = [
    {"instruction": f"Task {n // 2}", "output": f"print({n})", "is_correct": n % 2 == 0}
    for n in range(8)
]


def to_lines(rows: list[dict[str, Any]]) -> bytes:
    """JSON Lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def put(uri: str, content: bytes) -> str:
    """Write a file at a URI; returns the URI."""
    files, path = fsspec.core.url_to_fs(uri)
    files.pipe_file(path, content)
    return uri


def copies(cache: Path) -> list[Path]:
    """Files in the cache, finished or not."""
    found = (cache / "datasets").rglob("*")
    return sorted(path for path in found if path.is_file() and path.name != LOCK_FILE)
