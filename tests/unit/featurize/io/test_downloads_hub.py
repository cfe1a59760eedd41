"""Datasets on the Hub, by a double of it: globs, revisions, and repositories that refuse."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfFileSystem, constants

from featurize.errors import DataError
from featurize.io.downloads import find_remote_files
from tests.support.hub_server import TOKEN, Hub, hub_server

CODE = "hf://datasets/me/code"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as hub:
        hub.files["me/code"] = {
            "train-0.jsonl": b"zero",
            "train-1.jsonl": b"one",
            "more/train-2.jsonl": b"two",
            "README.md": b"",
        }
        hub.files["me/code@v2"] = {"train-0.jsonl": b"of another revision"}
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        HfFileSystem.clear_instance_cache()
        yield hub
    HfFileSystem.clear_instance_cache()


def read(pattern: str, folder: Path) -> dict[str, bytes]:
    """The content of the files, by name."""
    return {file.name: file.fetch(folder).read_bytes() for file in find_remote_files(pattern)}


@pytest.mark.usefixtures("hub")
def test_a_glob_finds_files_in_folders_as_well(tmp_path: Path) -> None:
    found = {f"{CODE}/train-0.jsonl": b"zero", f"{CODE}/train-1.jsonl": b"one"}
    assert read(f"{CODE}/train-*.jsonl", tmp_path) == found
    found[f"{CODE}/more/train-2.jsonl"] = b"two"
    assert read(f"{CODE}/**/*.jsonl", tmp_path) == found


@pytest.mark.usefixtures("hub")
def test_revisions_are_different_files(tmp_path: Path) -> None:
    assert read(f"{CODE}@main/train-0.jsonl", tmp_path) == {f"{CODE}@main/train-0.jsonl": b"zero"}
    assert list(read(f"{CODE}/train-0.jsonl", tmp_path).values()) == [b"zero"]
    second = read(f"{CODE}@v2/train-*.jsonl", tmp_path)
    assert second == {f"{CODE}@v2/train-0.jsonl": b"of another revision"}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (f"{CODE}/none-*.jsonl", "none-"),
        (f"{CODE}/none.jsonl", "none.jsonl"),
        (f"{CODE}@v9/train-0.jsonl", "@v9"),
        (f"{CODE}/more", "is a folder"),
        (CODE, "hf://datasets/<owner>"),
    ],
)
def test_what_is_not_there_is_named(uri: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        find_remote_files(uri)
    assert repr(uri) in str(caught.value)


def test_a_gated_dataset_is_refused_by_name_and_read_with_a_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add("me/code")
    [file] = find_remote_files(f"{CODE}/train-0.jsonl")  # it is listed
    with pytest.raises(PermissionError, match=r"train-0\.jsonl: refused \(403.*set HF_TOKEN"):
        file.fetch(tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    HfFileSystem.clear_instance_cache()
    assert list(read(f"{CODE}/train-0.jsonl", tmp_path).values()) == [b"zero"]
