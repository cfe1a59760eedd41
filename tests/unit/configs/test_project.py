"""What stage 2 works on: texts of a dataset, and the store a head can read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.commands.features import command_to_repeat
from configs.loader import ConfigError, load_config, load_recorded, to_dict
from configs.options import Chosen
from configs.project import Project, _check_recipe, _places
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
        ("null", "dataset.validation"),
        ("nowhere.jsonl", "nowhere.jsonl"),
        ("some.jsonl", "1 of the 16 samples"),
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


def head_of(project: Project, recipe: str = "recipe", store: str = "content") -> Any:
    """A head of a run of this project."""
    record = SimpleNamespace(
        recipe_fingerprint=recipe, store_fingerprint=store, config=project.run_config
    )
    return SimpleNamespace(record=record, path="heads/best")


def test_a_head_of_another_recipe_brings_the_store_of_its_own_run(
    tmp_path: Path, store: FeatureStore
) -> None:
    other = write_store(tmp_path / "features/random/valid", recipe_fingerprint="other")
    project, theirs = make_project(tmp_path), make_project(tmp_path, "experiment.name=random")
    assert project.open_store_of(head_of(theirs, "other"), "valid").path == other.path
    assert project.open_store_of(head_of(theirs), "valid").path == store.path
    with pytest.raises(FeatureStoreError, match="reads features of recipe third, which are not in"):
        project.open_store_of(head_of(theirs, "third"), "valid")
    unreadable = head_of(theirs, "other")
    unreadable.record.config = {"old": 1}
    with pytest.raises(FeatureStoreError, match="of recipe other"):
        project.open_store_of(unreadable, "valid")


def test_other_features_of_the_same_kind_are_not_those_a_head_was_trained_on(
    tmp_path: Path,
) -> None:
    write_store(tmp_path / "features/demo/train", fingerprint="of another dataset")
    its_own = write_store(tmp_path / "features/random/train", fingerprint="its own")
    project, theirs = make_project(tmp_path), make_project(tmp_path, "experiment.name=random")
    assert project.open_train_store_of(head_of(theirs, store="its own")).path == its_own.path
    with pytest.raises(FeatureStoreError, match="was trained on \\(gone\\) are not in"):
        project.open_train_store_of(head_of(theirs, store="gone"))


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


CHAT = {"format": "chat", "end": "turn"}


@pytest.mark.parametrize(
    ("settings", "recipe", "said"),
    [
        ([], {"segments": 8}, r"featurize\.segments 8, the config says None"),
        (["featurize.segments=8"], {}, r"featurize\.segments None, the config says 8"),
        ([], {"weights": "random"}, "weights 'random', the config says 'pretrained'"),
        (["models.policy.weights=random"], {}, "weights 'pretrained', the config says 'random'"),
        ([], {"prompt": CHAT}, r"prompt \{'format': 'chat'"),
        (["prompt.format=chat", "prompt.end=turn"], {}, r"prompt \{\}, the config says \{'format'"),
    ],
)
def test_a_store_of_another_recipe_is_refused(
    settings: list[str], recipe: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"made with .*{said}"):
        _check_recipe(load_config(Path("demo.yaml"), settings), "store", recipe)


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ([], {}),  # of a version without segments
        (["featurize.segments=8"], {"segments": 8}),
        (["prompt.format=chat", "prompt.end=turn"], {"prompt": CHAT | {"template": "digest"}}),
    ],
)
def test_a_store_of_the_same_recipe_is_taken(settings: list[str], recipe: dict[str, Any]) -> None:
    _check_recipe(load_config(Path("demo.yaml"), settings), "store", recipe)


def test_a_template_is_recorded_by_its_text(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }} ${x}")
    overrides = ["prompt.format=jinja", f"prompt.template={tmp_path}/chat.jinja"]
    project = make_project(tmp_path, *overrides)
    assert project.settings.prompt.template == "{{ messages }} ${x}"
    recorded = Project.of(load_recorded(project.run_config, "head.json"))
    assert recorded.settings == project.settings
    assert recorded.featurize_job("train").prompt == project.settings.prompt


@pytest.mark.parametrize(("text", "reason"), [(None, "cannot be read"), ("Answer:", r"\{\{ \}\}")])
def test_a_file_that_is_no_template_is_refused(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / "chat.jinja").write_text(text)
    overrides = ["prompt.format=jinja", f"prompt.template={tmp_path}/chat.jinja"]
    with pytest.raises(ConfigError, match=reason) as caught:
        make_project(tmp_path, *overrides)
    assert "chat.jinja" in str(caught.value)


POLICY = "models.policy"


def places(*overrides: str, has_config: bool, **recorded: Any) -> list[str]:
    """Paths in the order they are tried; `recorded` is the backbone in the head's record."""
    settings = load_config(Path("demo.yaml"), [f"{POLICY}.path=configured", *overrides])
    config = to_dict(load_config(Path("demo.yaml"), [f"{POLICY}.path=recorded"]))
    config["models"]["policy"] |= recorded
    record = SimpleNamespace(config=config, recipe_fingerprint="recipe", folder="")
    head: Any = SimpleNamespace(record=record, path="head")
    chosen = Chosen(Path("demo.yaml") if has_config else None, overrides)
    return [place.path for place in _places(head, settings, chosen)]


def test_a_configuration_names_another_place() -> None:
    assert places(has_config=True) == ["configured", "recorded"]
    assert places(has_config=False) == ["recorded"]


@pytest.mark.parametrize("name", ["path", "tokenizer_path", "revision"])
def test_a_place_on_the_command_line_is_the_only_one(name: str) -> None:
    found = places(f"{POLICY}.{name}=named", has_config=False)
    assert len(found) == 1
    assert found != ["recorded"]


def test_a_tokenizer_elsewhere_is_another_place() -> None:
    found = places(has_config=True, path="configured", tokenizer_path="elsewhere")
    assert found == ["configured", "configured"]
