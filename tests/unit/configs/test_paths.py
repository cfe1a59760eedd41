"""Where the files of a run lie."""

from pathlib import Path

import pytest

from configs.config import Layout
from configs.loader import load_config


def _layout(*overrides: str) -> Layout:
    return Layout(load_config(Path("demo.yaml"), overrides))


def test_the_layout_is_the_documented_one() -> None:
    layout = _layout()
    assert layout.features_dir("train") == Path("storage/features/demo/train")
    assert layout.features_dir("validation") == Path("storage/features/demo/valid")
    assert layout.checkpoint_dir == Path("storage/checkpoints/critic/demo")
    assert layout.evaluation_dir == Path("storage/evaluation/demo")
    assert layout.audit_dir == Path("storage/audit/demo")
    assert layout.cache_dir == Path("storage/cache")
    assert layout.datasets_dir == Path("storage/datasets")
    assert layout.tracking_uri == "sqlite:///storage/mlruns/mlflow.db"


def test_everything_lies_below_the_storage_root(tmp_path: Path) -> None:
    layout = _layout(f"storage.root={tmp_path}")
    folders = [value for value in vars(layout).values() if isinstance(value, Path)]
    assert len(folders) == 7
    assert all(folder.is_relative_to(tmp_path) for folder in folders)
    assert layout.tracking_uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert list(tmp_path.iterdir()) == []  # describing a layout makes nothing


def test_experiments_with_one_store_name_share_their_features() -> None:
    layout = _layout("featurize.store_name=shared")
    assert layout.features_dir("train") == Path("storage/features/shared/train")
    assert layout.evaluation_dir == Path("storage/evaluation/demo")


def test_features_may_lie_at_a_uri() -> None:
    layout = _layout("storage.features_dir=s3://bucket/features/")
    assert layout.features_dir("train") == "s3://bucket/features/demo/train"
    assert layout.features_dir("validation") == "s3://bucket/features/demo/valid"
    assert layout.cache_dir == Path("storage/cache")


def test_a_tracking_server_is_taken_as_it_is() -> None:
    assert _layout("mlflow.tracking_uri=http://host:5000").tracking_uri == "http://host:5000"


def test_an_unknown_split_has_no_folder() -> None:
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        _layout().features_dir("dev")


def test_an_empty_setting_takes_the_tracking_server_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://of-the-environment")
    layout = Layout(load_config(None))
    assert (layout.tracking_uri, layout.is_tracked_locally) == ("http://of-the-environment", False)
    named = load_config(None, ["mlflow.tracking_uri=http://named"])
    assert Layout(named).tracking_uri == "http://named"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert Layout(load_config(None)).is_tracked_locally


@pytest.mark.parametrize("is_setting", [True, False], ids=["setting", "environment"])
def test_a_tracking_database_in_the_home_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_setting: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "" if is_setting else "sqlite:///~/a/mlflow.db")
    settings = ["mlflow.tracking_uri=sqlite:///~/a/mlflow.db"] if is_setting else []
    assert _layout(*settings).tracking_uri == f"sqlite:///{tmp_path}/a/mlflow.db"


@pytest.mark.parametrize("uri", ["sqlite:///a~/mlflow.db", "http://host/~user", "file:///x"])
def test_a_tracking_address_without_a_home_folder_stays(uri: str) -> None:
    assert _layout(f"mlflow.tracking_uri={uri}").tracking_uri == uri
