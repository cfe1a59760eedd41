"""An export replaces an earlier export only, and only when it is complete."""

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from headtrain.export.head_folder import ExportError, new_folder


def write_export(folder: Path, config: dict[str, object]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "old.txt").write_text("old")
    return folder


def fail_within(out: Path, error: Exception) -> None:
    with new_folder(out, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
        raise error


NATIVE = {"model_type": "llama", "critic": {"offset": 0.0}}
CUSTOM = {"model_type": "critic", "template": "{}", "response_mark": [1]}


@pytest.mark.parametrize("config", [NATIVE, CUSTOM], ids=["native", "custom"])
def test_an_earlier_export_is_replaced_as_a_whole(tmp_path: Path, config: dict[str, object]):
    out = write_export(tmp_path / "out", config)
    with new_folder(out, overwrite=True) as folder:
        assert (out / "old.txt").exists()
        (folder / "new.txt").write_text("new")
    assert [item.name for item in out.iterdir()] == ["new.txt"]
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_an_export_to_mlflow_is_replaced_too(tmp_path: Path):
    (tmp_path / "MLmodel").write_text("model_code_path: mlflow_model.py\n")
    with new_folder(tmp_path, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
    assert [item.name for item in tmp_path.iterdir()] == ["new.txt"]


@pytest.mark.parametrize(
    "name", ["config.json", "MLmodel", "mine.txt", "config.json/x"], ids=lambda name: name
)
def test_a_folder_that_no_export_made_is_never_deleted(tmp_path: Path, name: str):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"model_type": "llama", "template": "a chat template"}')
    with (
        pytest.raises(ExportError, match="is not what `critic export` wrote"),
        new_folder(tmp_path / "out", overwrite=True),
    ):
        pass
    assert file.exists()


def test_a_file_is_never_deleted(tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(ExportError, match="is not what `critic export` wrote"),
        new_folder(tmp_path / "out", overwrite=True),
    ):
        pass
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("error", [SafetensorError("I/O error: No space"), OSError(28, "full")])
def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path, error: Exception):
    out = write_export(tmp_path / "out", NATIVE)
    with pytest.raises((ExportError, OSError)) as caught:
        fail_within(out, error)
    assert isinstance(caught.value, (ValueError, OSError))  # exit code 2
    assert sorted(item.name for item in out.iterdir()) == ["config.json", "old.txt"]
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path: Path):
    with new_folder(tmp_path, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
    assert (tmp_path / "new.txt").exists()
