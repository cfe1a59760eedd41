"""An export replaces an earlier one only, when it is complete; a pushed head loads from the Hub."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from safetensors import SafetensorError

from headtrain.export import head_folder
from headtrain.export.head_folder import ExportError, new_folder, push_head
from headtrain.head.checkpoint import load_head
from headtrain.scoring.critic import Critic
from tests.support.hub_server import TOKEN, hub_server
from tests.support.processes import REPOSITORY, run_python
from tests.support.scored_projects import make_project


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


@pytest.mark.parametrize("name", ["config.json", "MLmodel", "mine.txt", "config.json/x", "."])
def test_what_no_export_made_is_never_deleted(tmp_path: Path, name: str):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"model_type": "llama", "template": "a chat template"}')
    with (
        pytest.raises(ExportError, match="is not what `critic export` wrote"),
        new_folder(tmp_path / "out", overwrite=True),
    ):
        pass
    assert file.exists()


@pytest.mark.parametrize("config", ["[]", "7", "null", "{"])
def test_a_config_that_is_no_object_is_of_no_export(tmp_path: Path, config: str):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ExportError, match="name another"), new_folder(tmp_path, overwrite=True):
        pass
    assert (tmp_path / "config.json").read_text() == config


@pytest.mark.parametrize("error", [SafetensorError("I/O error: No space"), OSError(28, "full")])
def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path, error: Exception):
    out = write_export(tmp_path / "out", NATIVE)
    with pytest.raises((ExportError, OSError)) as caught:
        fail_within(out, error)
    assert isinstance(caught.value, (ValueError, OSError))  # exit code 2
    assert sorted(item.name for item in out.iterdir()) == ["config.json", "old.txt"]
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_an_error_without_a_file_names_the_folder(tmp_path: Path):
    with pytest.raises(OSError, match="full") as caught:
        fail_within(tmp_path / "out", OSError(28, "full"))
    assert caught.value.filename == str(tmp_path / "out")


def test_an_empty_folder_may_be_filled(tmp_path: Path):
    with new_folder(tmp_path, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
    assert (tmp_path / "new.txt").exists()


PUSH = """
import sys
from headtrain.export.head_folder import push_head
from headtrain.head.checkpoint import load_head
print(push_head(load_head(sys.argv[1]), "me/judge", verdict=[("accuracy", "0.75")]))
"""
LOAD = """
import sys
from headtrain.scoring.critic import Critic
critic = Critic.load("hf://me/judge", device="cpu", backbone=sys.argv[1])
print(critic.score("Add.", ["return a + b"]))
"""


def test_a_pushed_head_is_loaded_from_the_hub(tmp_path: Path) -> None:
    project = make_project(tmp_path, "featurize.likelihood=false", tensors=["mean.1"])
    with hub_server() as hub:
        variables = {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"),
            "PYTHONPATH": str(REPOSITORY), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
        }  # fmt: skip
        pushed = run_python("-c", PUSH, str(project.head), **variables)
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.splitlines()[-1] == "hf://me/judge"
        files = hub.files["me/judge"]
        assert set(files) == {"README.md", "head.json", "head.safetensors"}
        assert "me/judge" in hub.private
        card = files["README.md"].decode()
        assert "| accuracy | 0.75 |" in card
        assert "license_name: to-be-chosen" in card
        assert json.loads(files["head.json"])["folder"] == ""
        assert b"critic_recipe_fingerprint" in files["head.safetensors"][:2000]
        loaded = run_python("-c", LOAD, str(project.model), **variables)
        assert loaded.returncode == 0, loaded.stderr
        wanted = Critic.load(project.head, device="cpu").score("Add.", ["return a + b"])
        assert json.loads(loaded.stdout.splitlines()[-1]) == pytest.approx(wanted, abs=1e-5)
        variables["HF_TOKEN"] = "hf_other"
        refused = run_python("-c", PUSH, str(project.head), **variables)
    assert refused.returncode != 0
    assert "set HF_TOKEN to a token that may write" in refused.stderr


def test_a_push_to_a_hub_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_folder, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    head = load_head(make_project(tmp_path, "featurize.likelihood=false", tensors=["mean.1"]).head)
    with pytest.raises(ExportError, match="push 'me/critic': the Hub does not answer") as caught:
        push_head(head, "me/critic")
    assert "\n" not in str(caught.value)
    for name in ("me", "a/b/c"):
        with pytest.raises(ExportError, match=f"{name}.*not the name of a repository: user/name"):
            push_head(head, name)
