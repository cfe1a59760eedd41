"""What stage 2 works on: texts of a dataset, and the store a head can read."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from configs.commands.features import command_to_repeat
from configs.loader import ConfigError, load_config, load_recorded
from configs.project import Project, _check_recipe
from featurize.errors import FeatureStoreError
from featurize.store import FeatureStore
from tests.support.row_files import write_rows
from tests.support.synthetic_stores import write_store


def make_project(folder: Path, *overrides: str) -> Project:
    return Project.of(load_config(Path("demo.yaml"), [f"storage.root={folder}", *overrides]))


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
    project = make_project(tmp_path, f"dataset.validation={tmp_path}/valid.jsonl")
    source = project.open_texts("valid", store)
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
    project = make_project(tmp_path, f"dataset.validation={path}")
    source = project.open_texts("valid", store)
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
    project = make_project(tmp_path)
    theirs = make_project(tmp_path, "experiment.name=random").run_config
    found = project.open_store_of(Head(Record("other", theirs)), "valid")  # type: ignore[arg-type]
    assert found.path == other.path
    found = project.open_store_of(Head(Record("recipe", theirs)), "valid")  # type: ignore[arg-type]
    assert found.path == store.path
    with pytest.raises(FeatureStoreError, match="reads features of recipe third, which are not"):
        project.open_store_of(Head(Record("third", theirs)), "valid")  # type: ignore[arg-type]
    with pytest.raises(FeatureStoreError, match="of recipe other"):
        project.open_store_of(Head(Record("other", {"old": 1})), "valid")  # type: ignore[arg-type]


def test_other_features_of_the_same_kind_are_not_those_a_head_was_trained_on(
    tmp_path: Path,
) -> None:
    write_store(tmp_path / "features/demo/train", fingerprint="of another dataset")
    its_own = write_store(tmp_path / "features/random/train", fingerprint="its own")
    project = make_project(tmp_path)
    theirs = make_project(tmp_path, "experiment.name=random").run_config
    head = Head(Record("recipe", theirs, store_fingerprint="its own"))
    assert project.open_train_store_of(head).path == its_own.path  # type: ignore[arg-type]
    head = Head(Record("recipe", theirs, store_fingerprint="gone"))
    with pytest.raises(FeatureStoreError, match="was trained on \\(gone\\) are not in"):
        project.open_train_store_of(head)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("featurize --split train", "critic featurize --split train"),
        ("featurize --overwrite --split train --repair", "critic featurize --split train"),
        ("featurize --plan-only --debug --split dev", "critic featurize --split dev"),
        (
            "featurize --set mlflow.tracking_uri=http://me:secret@host --set a.b=[1,-1] --split x",
            "critic featurize --set 'a.b=[1,-1]' --split x",
        ),
        (
            "featurize --set mlflow.a=1 --split x --set mlflow.b=2",
            "critic featurize --split x",
        ),
    ],
)
def test_what_is_meant_for_once_or_secret_is_left_out(arguments: str, expected: str) -> None:
    assert command_to_repeat(arguments.split()) == expected


def test_a_store_with_other_segments_than_the_configuration_says_is_refused() -> None:
    plain, cut = (load_config(Path("demo.yaml"), o) for o in ([], ["featurize.segments=8"]))
    _check_recipe(plain, "store", {})  # of a version that had none
    _check_recipe(cut, "store", {"segments": 8})
    for config, recipe, said in ((plain, {"segments": 8}, "None"), (cut, {}, "8")):
        with pytest.raises(ConfigError, match=rf"made with featurize\.segments .* says {said}"):
            _check_recipe(config, "store", recipe)


def test_a_store_of_other_weights_is_refused() -> None:
    random = load_config(Path("demo.yaml"), ["models.policy.weights=random"])
    for config, recipe, said in (
        (load_config(Path("demo.yaml")), {"weights": "random"}, "pretrained"),
        (random, {}, "random"),
    ):
        with pytest.raises(ConfigError, match=f"models.policy.weights .* says '{said}'"):
            _check_recipe(config, "store", recipe)


def test_a_template_is_recorded_by_its_text(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }} ${x}")
    overrides = ["prompt.format=jinja", f"prompt.template={tmp_path}/chat.jinja"]
    project = make_project(tmp_path, *overrides)
    assert project.settings.prompt.template == "{{ messages }} ${x}"
    recorded = Project.of(load_recorded(project.run_config, "head.json"))
    assert recorded.settings == project.settings
    assert recorded.featurize_job("train").prompt == project.settings.prompt


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "cannot be read"), ("Answer:", "every prompt would be the same")]
)
def test_a_file_that_is_no_template_is_refused(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / "chat.jinja").write_text(text)
    overrides = ["prompt.format=jinja", f"prompt.template={tmp_path}/chat.jinja"]
    with pytest.raises(ConfigError, match=reason) as caught:
        make_project(tmp_path, *overrides)
    assert "chat.jinja" in str(caught.value)


def test_a_store_of_another_prompt_is_refused(tmp_path: Path) -> None:
    chat = make_project(tmp_path, "prompt.format=chat", "prompt.end=turn").settings
    recipe = {"prompt": {"format": "chat", "end": "turn", "template": "digest"}}
    _check_recipe(chat, "store", recipe)
    for settings, other in ((make_project(tmp_path).settings, recipe), (chat, {})):
        with pytest.raises(ConfigError, match=r"made with prompt \{"):
            _check_recipe(settings, "store", other)
