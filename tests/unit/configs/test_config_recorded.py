"""The configuration a head records, read back with overrides on top."""

from pathlib import Path

import pytest

from configs.loader import ConfigError, load_config, load_recorded, to_dict

RECORD = to_dict(load_config(Path("demo.yaml"), ["storage.root=/old", "experiment.name=mine"]))


def test_a_record_comes_back_as_the_configuration_it_was_made_of() -> None:
    assert to_dict(load_recorded(RECORD, "head.json")) == RECORD


def test_folders_in_the_root_follow_it_and_others_stay() -> None:
    storage = RECORD["storage"] | {"features_dir": "s3://bucket/features"}
    moved = load_recorded(RECORD | {"storage": storage}, "head.json", ["storage.root=/new"]).storage
    assert moved.models_dir == "/new/models"
    assert moved.features_dir == "s3://bucket/features"


def test_an_override_and_its_mistakes_are_told() -> None:
    assert load_recorded(RECORD, "h", ["runtime.device=cpu"]).runtime.device == "cpu"
    with pytest.raises(ConfigError, match=r"--set runtime\.devise=cpu"):
        load_recorded(RECORD, "h", ["runtime.devise=cpu"])


def test_a_record_of_another_version_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"run/head\.json"):
        load_recorded(RECORD | {"unheard_of": {}}, "run/head.json")
