"""Datasets at addresses of the web, and of this machine."""

import functools
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from featurize.data.index import DatasetIndex
from featurize.errors import DataError
from tests.support.datasets_by_uri import ROWS, copies, to_lines, without_waits


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have waited."""
    return without_waits(monkeypatch)


class Answers(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP, where `/busy` fails as often as it is told and `/private` is refused."""

    failures = 0

    def send_head(self) -> Any:
        if self.path.startswith("/private"):
            return self.send_error(403)
        if self.path.startswith("/busy") and Answers.failures > 0:
            Answers.failures -= 1
            return self.send_error(503)
        return super().send_head()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An address, and the folder whose files are there."""
    folder = tmp_path_factory.mktemp("site")
    handler: Callable[..., Any] = functools.partial(Answers, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


def test_a_file_of_the_web_is_read_and_its_signature_not_shown(
    site: tuple[str, Path],
    tmp_path: Path,
    no_waits: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, folder = site
    for name in ("train.jsonl", "busy.jsonl"):
        (folder / name).write_bytes(to_lines(ROWS))
        os.utime(folder / name, (1e9, 1e9))
    index = DatasetIndex.build(f"{address}/train.jsonl?signature=secret", tmp_path)
    assert index.read([0])[0].location.startswith(f"{address}/train.jsonl:")
    os.utime(folder / "train.jsonl", (2e9, 2e9))
    DatasetIndex.build(f"{address}/train.jsonl?signature=secret", tmp_path)
    assert len(copies(tmp_path)) == 2
    Answers.failures = 3
    with caplog.at_level("WARNING"):
        found = DatasetIndex.build(f"{address}/busy.jsonl?signature=secret", tmp_path)
    assert len(found) == len(ROWS)
    assert "trying again" in caplog.text
    assert "secret" not in caplog.text
    assert no_waits  # "not found" it was not
    with pytest.raises(DataError, match=rf"'{address}/none.jsonl' is not there"):
        DatasetIndex.build(f"{address}/none.jsonl?signature=secret", tmp_path)
    with pytest.raises(PermissionError, match=rf"^{address}/private.jsonl: refused \(403"):
        DatasetIndex.build(f"{address}/private.jsonl?signature=secret", tmp_path)


def test_a_glob_of_the_web_is_read(site: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = site
    (folder / "parts").mkdir()
    for number in range(2):
        (folder / f"parts/{number}.jsonl").write_bytes(to_lines(ROWS[number::2]))
    assert len(DatasetIndex.build(f"{address}/parts/*.jsonl", tmp_path)) == len(ROWS)


def test_a_file_of_this_machine_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(to_lines(ROWS))
    index = DatasetIndex.build(f"file://{tmp_path}/*.jsonl", tmp_path / "cache")
    assert index.sources[0].path == str(tmp_path / "train.jsonl")
    assert not (tmp_path / "cache/datasets").exists()
