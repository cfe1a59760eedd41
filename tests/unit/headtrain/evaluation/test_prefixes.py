"""Accuracy from prefixes: from the segments of a store, or a line that says why not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurize.store import FeatureStore
from featurize.store.shards import SEGMENT_TOKENS
from headtrain.evaluation.evaluate import evaluate_head
from headtrain.evaluation.results import Details, Evaluation
from headtrain.head.checkpoint import CheckpointError, TrainedHead, load_head
from headtrain.report.tables import detail_lines
from headtrain.settings import EvaluationSettings
from headtrain.training.run import TrainResult
from tests.support.synthetic_stores import write_store
from tests.support.train_runs import make_train

SETTINGS = EvaluationSettings(bootstrap_rounds=50, most_texts=None)


def evaluate(tmp_path: Path, segments: int | None, **training: Any) -> tuple[Evaluation, Details]:
    head, store = train(tmp_path, segments, **training)
    evaluation = evaluate_head(head, {"valid": store}, SETTINGS).evaluation
    return evaluation, evaluation.details["valid"]


def train(
    tmp_path: Path, segments: int | None, **training: Any
) -> tuple[TrainedHead, FeatureStore]:
    stores = {
        name: write_store(
            tmp_path / name, segments=segments, signal=0.3, seed=seed, fingerprint=name
        )
        for seed, name in enumerate(("train", "valid"))
    }
    result: TrainResult = make_train(tmp_path / "made")(
        training={"n_epochs": 4, "value_head_learning_rate": 0.02, **training}, **stores
    )
    assert result.final is not None
    return load_head(result.final), stores["valid"]


@pytest.mark.parametrize(
    "training",
    [
        {"value_head_type": "gated"},
        {"value_head_type": "attention", "prefixes": (0.5, 1.0)},
        {"value_head_type": "linear"},
    ],
)
def test_the_last_prefix_is_the_whole_output_and_the_others_are_judged_by_less(
    tmp_path: Path, training: dict[str, Any]
) -> None:
    evaluation, details = evaluate(tmp_path, 8, **training)
    parts = details.breakdowns["prefix"]
    assert [part.name for part in parts] == ["first 25%", "first 50%", "first 75%", "first 100%"]
    whole = evaluation.splits["valid"].judges["head"]
    name = "accuracy_over_problems"
    found = [part.judges["head"][name].estimate for part in parts]
    assert found[-1] == whole[name].estimate
    assert found[0] < found[-1]
    assert min(found) > 0.5
    assert {part.num_pairs for part in parts} == {evaluation.splits["valid"].counts.num_pairs}
    assert len(details.best_of_n.pickers["halved"]) == len(details.best_of_n.n)
    assert Evaluation.from_dict(evaluation.to_dict()) == evaluation
    lines = "\n".join(detail_lines(evaluation, "valid"))
    assert "accuracy over problems from prefixes: first 25% " in lines
    assert ", halved " in lines


def test_prefixes_of_a_store_with_few_segments_are_named_by_what_they_have(tmp_path: Path) -> None:
    _, details = evaluate(tmp_path, 3, value_head_type="gated")
    names = [part.name for part in details.breakdowns["prefix"]]
    assert names == ["first 33%", "first 67%", "first 100%"]


def test_without_segments_nothing_is_said_of_prefixes(tmp_path: Path) -> None:
    _, details = evaluate(tmp_path, None)
    assert "prefix" not in details.breakdowns
    assert "halved" not in details.best_of_n.pickers
    assert "prefixes" not in details.left_out


def test_a_head_that_segments_cannot_feed_is_said_to_have_no_prefixes(tmp_path: Path) -> None:
    training = {"features": ["segments.2", "mean.4"], "value_head_width": 4}
    evaluation, details = evaluate(tmp_path, 4, **training)
    assert "prefix" not in details.breakdowns
    expected = "the head reads segments.2; only means of prefixes can be had from segments"
    assert details.left_out["prefixes"] == expected
    assert f"left out: prefixes: {expected}" in detail_lines(evaluation, "valid")


def test_values_of_prefixes_are_those_of_outputs_cut_there(tmp_path: Path) -> None:
    head, store = train(tmp_path, 4, value_head_type="gated")
    half = head.score_prefixes(store, 2)
    whole = head.score(store)
    tokens = store.read(SEGMENT_TOKENS)[store.samples["feature_row"].to_pylist()]
    assert np.array_equal(head.score_prefixes(store, 4), whole)
    is_same = (tokens[:, 2:] == 0).all(dim=1).numpy()
    assert not is_same.all()
    assert (half[~is_same] != whole[~is_same]).all()
    plain = write_store(tmp_path / "plain", recipe_fingerprint="recipe")
    with pytest.raises(CheckpointError, match=r"featurize\.segments"):
        head.score_prefixes(plain, 2)
