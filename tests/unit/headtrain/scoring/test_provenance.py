"""A backbone that a head records by a relative path is found from any folder."""

import json
import shutil
from pathlib import Path

import pytest

from headtrain.scoring.critic import Critic
from tests.support.scored_projects import ScoredProject


def relative_head(project: ScoredProject, folder: Path, run_folder: str) -> Path:
    """The head, as a run in `run_folder` with a relative backbone path records it."""
    head = Path(shutil.copytree(project.head, folder / "relative"))
    record = json.loads((head / "head.json").read_text())
    record["config"]["models"]["policy"]["path"] = project.model.name
    record["folder"] = run_folder
    (head / "head.json").write_text(json.dumps(record))
    return head


def test_a_relative_path_is_found_from_another_folder(
    project: ScoredProject, critic: Critic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = critic.score("Add.", ["x"])
    head = relative_head(project, tmp_path, str(project.model.parent))
    monkeypatch.chdir(tmp_path)
    assert Critic.load(head, device="cpu").score("Add.", ["x"]) == expected


def test_a_relative_path_that_leads_somewhere_here_is_taken(
    project: ScoredProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project.model, tmp_path / project.model.name)
    monkeypatch.chdir(tmp_path)
    assert Critic.load(relative_head(project, tmp_path, "/gone"), device="cpu").score("a", ["x"])


@pytest.mark.parametrize(
    ("run_folder", "told"), [("/gone/run", "/gone/run/model"), ("", "'model' in the folder of its")]
)
def test_the_message_says_where_the_backbone_was(
    project: ScoredProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_folder: str,
    told: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    head = relative_head(project, tmp_path, run_folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{told}.*models\\.policy\\.path"):
        Critic.load(head, device="cpu")
