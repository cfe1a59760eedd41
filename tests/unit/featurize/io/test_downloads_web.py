"""Datasets at web addresses and at file:// URIs."""

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
from featurize.io.downloads import find_remote_files
from tests.support.datasets_by_uri import ROWS, copies, to_lines


class Answers(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `/busy` fails `failures` times and `/private` is refused."""

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
    """An address and the folder that it serves."""
    folder = tmp_path_factory.mktemp("site")
    handler: Callable[..., Any] = functools.partial(Answers, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


def test_a_signature_in_an_address_is_used_but_never_shown(
    site: tuple[str, Path],
    tmp_path: Path,
    no_waits: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, folder = site

    def fetch(name: str) -> str:
        [file] = find_remote_files(f"{address}/{name}?signature=secret")
        assert file.fetch(tmp_path).read_bytes() == to_lines(ROWS)
        return file.name

    for name in ("train.jsonl", "busy.jsonl"):
        (folder / name).write_bytes(to_lines(ROWS))
        os.utime(folder / name, (1e9, 1e9))
    assert fetch("train.jsonl") == f"{address}/train.jsonl"
    os.utime(folder / "train.jsonl", (2e9, 2e9))
    fetch("train.jsonl")
    assert len(copies(tmp_path)) == 2
    Answers.failures = 3
    with caplog.at_level("WARNING"):
        fetch("busy.jsonl")
    assert "trying again" in caplog.text
    assert "secret" not in caplog.text
    assert no_waits  # it was not taken for a missing file
    with pytest.raises(DataError, match=rf"'{address}/none.jsonl' is not there"):
        fetch("none.jsonl")
    with pytest.raises(PermissionError, match=rf"^{address}/private.jsonl: refused \(403"):
        fetch("private.jsonl")


def test_a_glob_of_web_addresses_finds_the_files(site: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = site
    (folder / "parts").mkdir()
    for number in range(2):
        (folder / f"parts/{number}.jsonl").write_bytes(to_lines(ROWS[number::2]))
    assert len(DatasetIndex.build(f"{address}/parts/*.jsonl", tmp_path)) == len(ROWS)


def test_a_file_of_this_machine_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(to_lines(ROWS))
    index = DatasetIndex.build(f"file://{tmp_path}/*.jsonl", tmp_path / "cache")
    assert index.sources[0].path == str(tmp_path / "train.jsonl")
    assert not (tmp_path / "cache/datasets").exists()
