"""The baseline's head: where it is kept, so that what it is made of never meets another's."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headtrain.evaluation import random_backbone
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    PairwiseSettings,
    TrainingSettings,
)


class _Found(Exception):
    """Where the head was to be kept."""


@pytest.fixture
def folder_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Tells the folder of a head by its valid store and the file of problems left out."""

    def train_head(*, checkpoint_dir: Path, **_: object) -> None:
        raise _Found(checkpoint_dir)

    monkeypatch.setattr(random_backbone, "train_head", train_head)

    def folder(valid: str | None, excluded: Path | None = None) -> Path:
        names = None if excluded is None else str(excluded)
        sampling = DataSamplingSettings(pairwise=PairwiseSettings(exclude_problems=names))
        config = {
            "training": asdict(TrainingSettings()),
            "data_sampling": asdict(sampling),
            "runtime": {"seed": 1},
            "checkpoint": asdict(CheckpointSettings(save_dir=str(tmp_path))),
        }
        record = SimpleNamespace(
            config=config, tensors={"mean.1": 4}, likelihood=False, holdout=None, train_holdout=None
        )
        made: Any = {
            split: SimpleNamespace(manifest=SimpleNamespace(fingerprint=fingerprint))
            for split, fingerprint in (("train", "t"), ("valid", valid))
        }
        layout: Any = SimpleNamespace(random_checkpoint_dir=tmp_path.joinpath, cache_dir=tmp_path)
        settings: Any = SimpleNamespace(runtime=SimpleNamespace(device="cpu"))
        trained: Any = SimpleNamespace(record=record, path=tmp_path)
        with pytest.raises(_Found) as found:
            random_backbone._train(
                trained, made, settings, layout, chosen_on=None if valid is None else "valid"
            )
        path: Path = found.value.args[0]
        return path

    return folder


def test_other_valid_features_make_another_folder(folder_of: Any) -> None:
    assert folder_of("one") == folder_of("one")
    assert len({folder_of("one"), folder_of("two"), folder_of(None)}) == 3


def test_other_problems_in_the_file_left_out_make_another_folder(
    folder_of: Any, tmp_path: Path
) -> None:
    excluded = tmp_path / "excluded.txt"
    found = set()
    for text in ("p1\n", "p1\np2\n"):
        excluded.write_text(text)
        found.add(folder_of("one", excluded))
    assert len(found) == 2
