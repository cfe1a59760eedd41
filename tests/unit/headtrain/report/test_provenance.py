"""Where an evaluation comes from: what the page says of a head and its features."""

import os
from pathlib import Path

import pytest

from featurize.store import FeatureStore
from headtrain.head.checkpoint import RECORD_FILE, load_head
from headtrain.report.provenance import find_provenance
from tests.support.train_runs import make_train


def test_it_names_the_head_its_features_and_its_settings(tmp_path: Path) -> None:
    result = make_train(tmp_path)()
    assert result.best is not None
    os.utime(result.best / RECORD_FILE, (0, 0))
    store = FeatureStore.open(tmp_path / "train")
    head = load_head(result.best)
    found = find_provenance(head, {"train": store})
    assert found.rows["head written"] == "1970-01-01 00:00 UTC"
    assert head.record.weights_checksum[:16] in found.rows["head"]
    assert store.manifest.fingerprint in found.rows["features of train"]
    assert found.rows["pairs trained on"].startswith("100 of 12 problems")
    assert found.config == "experiment:\n  name: test\n"
    assert find_provenance(head, {"train": store}) == found


@pytest.mark.parametrize(
    ("backbone", "shown"), [("a-model", "a-model"), ({"name": "m", "digest": "d"}, "m, d")]
)
def test_a_backbone_is_shown_however_the_recipe_names_it(
    tmp_path: Path, backbone: object, shown: str
) -> None:
    result = make_train(tmp_path)()
    assert result.best is not None
    store = FeatureStore.open(tmp_path / "train")
    store.manifest.recipe["backbone"] = backbone
    assert find_provenance(load_head(result.best), {"train": store}).rows["backbone"] == shown
