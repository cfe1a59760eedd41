"""What stage 2 works on: texts of a dataset, and the store a head can read."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from configs.config import Config
from configs.loader import load_config, to_dict
from configs.paths import Layout
from configs.project import open_store_of, open_texts, open_train_store_of
from featurize.store import FeatureStore, FeatureStoreError
from tests.support.synthetic_stores import write_store
from tests.support.tiny_project import write_rows


def configured(folder: Path, *overrides: str) -> tuple[Config, Layout]:
    settings = load_config(Path("demo.yaml"), [f"storage.root={folder}", *overrides])
    return settings, Layout.from_config(settings)


def rows_of(store: FeatureStore) -> list[dict[str, Any]]:
    return [
        {"instruction": "Add.", "output": f"program of {name}", "task_id": name, "is_correct": True}
        for name in store.samples["task_id"].to_pylist()
    ]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "features/demo/valid", num_problems=2)


def test_texts_come_in_the_order_asked_for(tmp_path: Path, store: FeatureStore) -> None:
    write_rows(tmp_path / "valid.jsonl", [*rows_of(store), {"instruction": "More.", "output": "x"}])
    settings, layout = configured(tmp_path, f"dataset.validation={tmp_path}/valid.jsonl")
    source = open_texts(settings, layout, "valid", store)
    assert source.read is not None
    wanted = ["task-00007", "task-00000", "task-00007"]
    assert [sample.output for sample in source.read(wanted)] == [f"program of {w}" for w in wanted]


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        ("null", "dataset.validation is not set"),
        ("nowhere.jsonl", "nowhere.jsonl"),
        ("some.jsonl", "the dataset lacks 1 of the 16 samples"),
    ],
)
def test_texts_that_are_not_there_are_explained(
    tmp_path: Path, store: FeatureStore, dataset: str, why: str
) -> None:
    write_rows(tmp_path / "some.jsonl", rows_of(store)[1:])
    path = dataset if dataset == "null" else f"{tmp_path}/{dataset}"
    settings, layout = configured(tmp_path, f"dataset.validation={path}")
    source = open_texts(settings, layout, "valid", store)
    assert source.read is None
    assert why in source.why_not
    assert "\n" not in source.why_not


@dataclasses.dataclass
class Record:
    recipe_fingerprint: str
    config: dict[str, Any]
    store_fingerprint: str = "content"


@dataclasses.dataclass
class Head:
    record: Record
    path: str = "heads/best"


def test_a_head_of_another_recipe_brings_the_store_of_its_own_run(
    tmp_path: Path, store: FeatureStore
) -> None:
    other = write_store(tmp_path / "features/random/valid", recipe_fingerprint="other")
    settings, layout = configured(tmp_path)
    theirs = to_dict(configured(tmp_path, "experiment.name=random")[0])
    found = open_store_of(Head(Record("other", theirs)), settings, layout, "valid")  # type: ignore[arg-type]
    assert found.path == other.path
    found = open_store_of(Head(Record("recipe", theirs)), settings, layout, "valid")  # type: ignore[arg-type]
    assert found.path == store.path
    with pytest.raises(FeatureStoreError, match="reads features of recipe third, which neither"):
        open_store_of(Head(Record("third", theirs)), settings, layout, "valid")  # type: ignore[arg-type]
    with pytest.raises(FeatureStoreError, match="of recipe other"):
        open_store_of(Head(Record("other", {"old": 1})), settings, layout, "valid")  # type: ignore[arg-type]


def test_other_features_of_the_same_kind_are_not_those_a_head_was_trained_on(
    tmp_path: Path,
) -> None:
    write_store(tmp_path / "features/demo/train", fingerprint="of another dataset")
    its_own = write_store(tmp_path / "features/random/train", fingerprint="its own")
    _, layout = configured(tmp_path)
    theirs = to_dict(configured(tmp_path, "experiment.name=random")[0])
    head = Head(Record("recipe", theirs, store_fingerprint="its own"))
    assert open_train_store_of(head, layout).path == its_own.path  # type: ignore[arg-type]
    head = Head(Record("recipe", theirs, store_fingerprint="gone"))
    with pytest.raises(FeatureStoreError, match="was trained on \\(gone\\) are not in"):
        open_train_store_of(head, layout)  # type: ignore[arg-type]
