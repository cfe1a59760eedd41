"""The folder of the baseline's head depends on everything the head is made of."""

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
    """The folder the head would be written to."""


@pytest.fixture
def folder_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Gives the folder of a head for a valid store and a file of excluded problems."""

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
        job: Any = SimpleNamespace(cache_dir=tmp_path, runtime=SimpleNamespace(device="cpu"))
        trained: Any = SimpleNamespace(record=record, path=tmp_path)
        unused: Any = None
        baseline = random_backbone.RandomBackbone(
            job_of=lambda split: job,
            featurize=unused,
            open_store=unused,
            features_dir=unused,
            checkpoint_dir=tmp_path.joinpath,
            progress=unused,
        )
        with pytest.raises(_Found) as found:
            baseline._train(trained, made, chosen_on=None if valid is None else "valid")
        path: Path = found.value.args[0]
        return path

    return folder


def test_other_valid_features_make_another_folder(folder_of: Any) -> None:
    assert folder_of("one") == folder_of("one")
    assert len({folder_of("one"), folder_of("two"), folder_of(None)}) == 3


def test_other_excluded_problems_make_another_folder(folder_of: Any, tmp_path: Path) -> None:
    excluded = tmp_path / "excluded.txt"
    found = set()
    for text in ("p1\n", "p1\np2\n"):
        excluded.write_text(text)
        found.add(folder_of("one", excluded))
    assert len(found) == 2
