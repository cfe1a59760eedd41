import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featurize.store import FeatureStore
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.metrics.bootstrap import Interval
from headtrain.report.sweep import curve_rows, draw_curve
from headtrain.settings import (
    DataSamplingSettings,
    EvaluationSettings,
    PairwiseSettings,
    TrainingSettings,
)
from headtrain.sweep.curve import (
    CANDIDATES,
    PROBLEMS,
    CurveResult,
    LayerGain,
    extrapolate,
    halves,
    measure_curve,
    say_what_to_buy,
)
from headtrain.sweep.grid import SweepPoint
from headtrain.sweep.inputs import SweepSetup, take_candidates, take_problems, with_rows
from headtrain.sweep.other_backbone import OtherBackbone
from tests.support.synthetic_stores import write_store

EVALUATION = EvaluationSettings(bootstrap_rounds=60, train_holdout=0.0)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "train", tensors={"mean.1": 16, "mean.2": 16}, signal=0.5, seed=1)


@pytest.fixture
def samples(store: FeatureStore) -> LabelledSamples:
    return read_labelled_samples(store)


def curve_of(
    store: FeatureStore, tmp_path: Path, other: OtherBackbone | None = None, **settings: Any
) -> CurveResult:
    training = TrainingSettings(
        features=["mean.1"], n_epochs=2, batch_size=8, likelihood=False, **settings
    )
    sampling = DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=150))
    valid = write_store(
        tmp_path / "valid",
        tensors={"mean.1": 16, "mean.2": 16},
        signal=0.5,
        seed=2,
        fingerprint="valid",
    )
    setup = SweepSetup(
        train=store,
        valid=valid,
        seeds=[0, 1],
        evaluation=EVALUATION,
        save_checkpoint_every=0.5,
        device=torch.device("cpu"),
        mixed_precision=False,
        cache_dir=tmp_path,
    )
    point = SweepPoint(varied={}, training=training, sampling=sampling, run_config={})
    return measure_curve(setup, point, other=other)


@pytest.mark.parametrize("take", [take_problems, take_candidates])
def test_a_smaller_subset_is_part_of_a_larger_one(take: Any, samples: LabelledSamples) -> None:
    subsets = [set(take(samples, count, 3).tolist()) for count in (2, 4, 8)]
    assert subsets[0] < subsets[1] < subsets[2]


def test_two_candidates_of_a_problem_have_both_labels(samples: LabelledSamples) -> None:
    rows = take_candidates(samples, 2, 0)
    taken = samples.take(np.isin(samples.table_rows, rows))
    assert np.bincount(taken.problems).tolist() == [2] * 12
    assert np.bincount(taken.problems[taken.is_correct]).tolist() == [1] * 12


def test_other_seeds_take_other_problems(samples: LabelledSamples) -> None:
    subsets = {tuple(take_problems(samples, 4, seed)) for seed in range(5)}
    assert len(subsets) > 1


def test_a_store_of_fewer_rows_keeps_the_features_of_each(
    store: FeatureStore, samples: LabelledSamples
) -> None:
    view = with_rows(store, samples.table_rows[:5])
    assert view.samples.num_rows == 5
    assert store.samples.num_rows == 96
    assert set(view.samples["feature_row"].to_pylist()) <= set(range(store.num_feature_rows))


def test_sizes_are_halves_down_to_two() -> None:
    assert halves(12) == [3, 6, 12]
    assert halves(1000) == [62, 125, 250, 500, 1000]


@pytest.mark.parametrize("kind", ["mlp", "contrast"])
def test_the_curve_of_a_store_is_measured_and_drawn(
    kind: str, store: FeatureStore, tmp_path: Path
) -> None:
    found = curve_of(store, tmp_path, value_head_type=kind)
    problems, candidates = found.curves
    assert [level.size for level in problems.levels] == [3, 6, 12]
    assert [level.size for level in candidates.levels] == [2, 4, 8]
    assert problems.levels[-1].accuracy == candidates.levels[-1].accuracy
    assert found.layer is not None
    assert found.layer.tensor == "mean.2"
    assert "larger backbone" in found.verdict
    assert draw_curve(found, tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "12 problems" in curve_rows(found)


def test_another_backbone_is_measured_on_the_same_problems(
    store: FeatureStore, tmp_path: Path
) -> None:
    better = [
        write_store(
            tmp_path / "other" / split,
            tensors={"mean.1": 16},
            signal=2.0,
            seed=seed,
            fingerprint=f"other {split}",
        )
        for seed, split in enumerate(("train", "valid"))
    ]
    for one in better:
        recipe = {"backbone": {"name": "larger", "layers": 2}}
        one.manifest = dataclasses.replace(one.manifest, recipe=recipe)
    found = curve_of(store, tmp_path, other=OtherBackbone(train=better[0], valid=better[1]))
    gain = found.larger_backbone
    assert gain is not None
    assert (gain.name, gain.tensors) == ("larger", ("mean.1",))
    assert gain.features == "other train+other valid"
    base = found.curves[0].levels[-1].accuracy.estimate
    assert base < base + gain.gain.estimate <= 1
    assert "another backbone (larger) (" in found.verdict
    assert "not measured" not in found.verdict


def test_a_rising_curve_is_extrapolated_with_an_interval() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (40, 1))
    levels = [(size, 0.8 - 0.8 * size**-0.5 + noise[:, 0]) for size in (10.0, 20.0, 40.0, 80.0)]
    curve = extrapolate(PROBLEMS, levels, EVALUATION)
    assert curve.doubled is not None
    assert curve.gain is not None
    assert curve.doubled.estimate == pytest.approx(0.8 - 0.8 * 160**-0.5 + noise.mean(), abs=2e-3)
    assert curve.gain.low is not None
    assert curve.gain.low > 0


def test_a_curve_that_falls_or_is_short_says_why_it_ends() -> None:
    falling = [(size, np.full(5, 1 / size)) for size in (2.0, 4.0, 8.0)]
    assert "does not rise" in str(extrapolate(PROBLEMS, falling, EVALUATION).note)
    assert "2 sizes are too few" in str(extrapolate(PROBLEMS, falling[1:], EVALUATION).note)


def test_the_sentence_names_the_largest_gain_and_its_doubt() -> None:
    clear, doubtful = (Interval(estimate=0.02, low=low, high=0.04) for low in (0.01, -0.01))
    small = Interval(estimate=0.001, low=0.0, high=0.002)
    said = say_what_to_buy({PROBLEMS: clear, CANDIDATES: small}, None)
    assert "twice the problems (" in said
    said = say_what_to_buy({PROBLEMS: None}, LayerGain(tensor="mean.2", gain=doubtful))
    assert said.startswith("The largest gain is another layer (mean.2), but its interval reaches")
    assert say_what_to_buy({PROBLEMS: None}, None).startswith("Nothing that was measured")
