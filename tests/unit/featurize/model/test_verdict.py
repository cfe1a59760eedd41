"""The remembered verdict on a backbone's forwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from featurize.model.agreement import Choice, remembered_choice
from featurize.model.forward import FeatureSpec

CONDITIONS: dict[str, Any] = {
    "backbone": "digest",
    "spec": FeatureSpec(layers=(1,), poolings=("mean",), likelihood=False),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
}


class Chooser:
    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self) -> Choice:
        self.num_calls += 1
        return Choice(forward="padded", reason=f"call {self.num_calls}")


def test_a_backbone_is_compared_once(tmp_path: Path) -> None:
    choose = Chooser()
    first = remembered_choice(tmp_path, choose, **CONDITIONS)
    assert remembered_choice(tmp_path, choose, **CONDITIONS) == first
    assert choose.num_calls == 1


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "other"},
        {"dtype": torch.bfloat16},
        {"spec": FeatureSpec(layers=(1,), poolings=("last",), likelihood=False)},
        {"spec": FeatureSpec(layers=(1,), poolings=("mean",), likelihood=True)},
    ],
)
def test_another_backbone_format_or_feature_is_compared_again(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    choose = Chooser()
    remembered_choice(tmp_path, choose, **CONDITIONS)
    remembered_choice(tmp_path, choose, **CONDITIONS | change)
    assert choose.num_calls == 2


@pytest.mark.parametrize("content", ["", "{}", '{"forward": "packed"}', "[]"])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str) -> None:
    choose = Chooser()
    remembered_choice(tmp_path, choose, **CONDITIONS)
    (path,) = tmp_path.glob("*.json")
    path.write_text(content)
    assert remembered_choice(tmp_path, choose, **CONDITIONS).reason == "call 2"
    assert json.loads(path.read_text())["reason"] == "call 2"


def test_a_verdict_of_other_libraries_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = Chooser()
    remembered_choice(tmp_path, choose, **CONDITIONS)
    monkeypatch.setattr("featurize.model.agreement.version", lambda name: "99")
    remembered_choice(tmp_path, choose, **CONDITIONS)
    assert choose.num_calls == 2


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    choice = remembered_choice(tmp_path / "file" / "folder", Chooser(), **CONDITIONS)
    assert choice.forward == "padded"
