from typing import Any

import pytest
from pydantic import ValidationError

from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    EvaluationSettings,
    MlflowSettings,
    PairwiseSettings,
    SchedulerSettings,
    TrainingSettings,
)


@pytest.mark.parametrize(
    ("section", "values", "reason"),
    [
        (DataSamplingSettings, {"sampling_method": "problems"}, "split the pairs"),
        (DataSamplingSettings, {"sampling_method": "index"}, "'index' is unknown; use 'pairwise'"),
        (DataSamplingSettings, {"val_n_samples": -1}, "greater than 0"),
        (PairwiseSettings, {"strategy": "random"}, "'balanced' or 'uniform'"),
        (PairwiseSettings, {"difficulties": []}, "leaves no problem"),
        (PairwiseSettings, {"difficulties": {"easy": 0}}, "leaves no problem"),
        (TrainingSettings, {"trunk_learning_rate": 1e-5}, "1e-05 is not supported.*frozen"),
        (TrainingSettings, {"num_unfrozen_layers": 2}, "2 is not supported.*frozen"),
        (TrainingSettings, {"n_epochs": float("inf")}, "finite"),
        (TrainingSettings, {"features": ["a", "a"]}, "names a tensor twice"),
        (TrainingSettings, {"features": [], "likelihood": False}, "would read nothing"),
        (
            TrainingSettings,
            {"loss_type": "pointwise", "margin": 1.0},
            "margin 1.0 is .*pairwise",
        ),
        (
            TrainingSettings,
            {"loss_type": "pointwise", "batching": "problems"},
            "batching 'problems' is",
        ),
        (
            TrainingSettings,
            {"value_head_type": "centroid", "loss_type": "pointwise"},
            "value_head_type centroid is fitted to pairs",
        ),
        (
            TrainingSettings,
            {"value_head_type": "contrast", "contrast_shrinkage": 0},
            "greater than 0",
        ),
        (
            TrainingSettings,
            {"value_head_width": 8, "value_head_type": "linear"},
            "value_head_width 8 is an option of value_head_type mlp",
        ),
        (
            TrainingSettings,
            {"value_head_width": 8, "value_head_type": "gated"},
            "value_head_width 8 is an option",
        ),
        (
            TrainingSettings,
            {"segment_value": "mlp"},
            "segment_value 'mlp' is an option of value_head_type gated",
        ),
        (
            TrainingSettings,
            {"value_head_type": "gated", "feature_mix": "mix"},
            "the head weighs segments itself",
        ),
        (
            TrainingSettings,
            {"value_head_type": "attention", "likelihood": True},
            "segments do not have its columns",
        ),
        (TrainingSettings, {"prefixes": [0.5, 1.0], "likelihood": True}, "likelihood true and pre"),
        (TrainingSettings, {"prefixes": [0.5, 0.25, 1.0]}, "must ascend and end with 1.0"),
        (TrainingSettings, {"prefixes": [0.5]}, "must ascend and end with 1.0"),
        (TrainingSettings, {"prefixes": []}, "must ascend and end with 1.0"),
        (TrainingSettings, {"prefixes": [0.0, 1.0]}, "greater than 0"),
        (TrainingSettings, {"centre": "problem"}, "one output is scored alone"),
        (TrainingSettings, {"normaliser": "layer"}, "'standardize', 'tensor' or 'none'"),
        (TrainingSettings, {"problem_pairs": "all"}, "needs batching 'problems'"),
        (CheckpointSettings, {"save_dir": "x", "save_best": False, "save_final": False}, "no head"),
        (EvaluationSettings, {"confidence": 1.0}, "less than 1"),
        (MlflowSettings, {"uri": "x"}, "Unexpected keyword"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_reason(
    section: type, values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=f"(?s){reason}"):
        section(**values)


def test_the_plans_values_are_the_defaults() -> None:
    training = TrainingSettings()
    assert (training.loss_type, training.batch_size, training.dropout) == ("pairwise", 32, 0.3)
    assert training.value_head_learning_rate == 1e-3
    assert training.lr_scheduler == SchedulerSettings(
        type="cosine", warmup_ratio=0.05, min_lr_ratio=0.01
    )
    assert DataSamplingSettings().pairwise.n_pairs == 50_000
    assert DataSamplingSettings().val_n_samples == 1000


def test_difficulties_and_ids_that_yaml_reads_as_numbers_are_names() -> None:
    settings = PairwiseSettings(difficulties={800: 1, "1200": 0.5}, exclude_problems=[12, "b"])  # type: ignore[dict-item, arg-type]
    assert settings.difficulties == {"800": 1.0, "1200": 0.5}
    assert settings.exclude_problems == ("12", "b")
    assert PairwiseSettings(difficulties=[800]).difficulties == ("800",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"difficulties": [1e3]},
        {"difficulties": {1.5: 1}},
        {"exclude_problems": [float("nan")]},
        {"exclude_problems": 5},
    ],
)
def test_a_number_whose_text_is_unknown_is_no_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="valid string"):
        PairwiseSettings(**fields)
