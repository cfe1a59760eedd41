"""Judges a trained head on feature stores and keeps the result as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featurize.files import read_json, write_json
from featurize.store import FeatureStore
from headtrain.checkpoint import TrainedHead
from headtrain.evaluation.evaluate import evaluate
from headtrain.evaluation.metrics import ScoredSamples
from headtrain.evaluation.results import Evaluation
from headtrain.evaluation.shortcuts import shortcut_scores
from headtrain.inputs import read_labelled_samples
from headtrain.settings import EvaluationSettings


def judge_head(
    head: TrainedHead,
    stores: Mapping[str, FeatureStore],
    settings: EvaluationSettings,
    *,
    seed: int = 0,
) -> Evaluation:
    """The head on every store by the name of its split; `train` fits calibration and threshold.

    Raises:
        ValueError: a store of another recipe, or without a problem that has both labels.
    """
    splits, shortcuts = {}, {}
    for name, store in stores.items():
        labelled = read_labelled_samples(store)
        splits[name] = ScoredSamples(
            scores=np.asarray(head.score(store)[labelled.table_rows], np.float64),
            is_correct=labelled.is_correct,
            problem=labelled.problems,
            output_tokens=labelled.output_tokens,
        )
        shortcuts[name] = shortcut_scores(store.samples.take(labelled.table_rows))
    return evaluate(splits=splits, shortcuts=shortcuts, settings=settings, seed=seed)


def write_evaluation(path: Path, evaluation: Evaluation, head: TrainedHead) -> bool:
    """Writes the evaluation as JSON, beside what it is of; False where it stood there already."""
    about = {
        "path": head.path,
        "weights_checksum": head.record.weights_checksum,
        "recipe_fingerprint": head.record.recipe_fingerprint,
    }
    content = {"head": about, **evaluation.to_dict()}
    if path.exists() and read_json(path) == json.loads(json.dumps(content)):
        return False
    write_json(path, content)
    return True


def to_metrics(evaluation: Evaluation, split: str) -> dict[str, float]:
    """The numbers of one split under names a tracking server can plot."""
    result = evaluation.splits[split]
    metrics: dict[str, float | None] = {
        "mean_correct": result.values.mean_correct,
        "mean_incorrect": result.values.mean_incorrect,
        "gap": result.values.gap.estimate,
    }
    for judge, found in result.judges.items():
        metrics[f"{judge}/accuracy_over_pairs"] = found.accuracy_over_pairs.estimate
        metrics[f"{judge}/accuracy_over_problems"] = found.accuracy_over_problems.estimate
        metrics[f"{judge}/accuracy_over_problems_low"] = found.accuracy_over_problems.low
        metrics[f"{judge}/accuracy_over_problems_high"] = found.accuracy_over_problems.high
        metrics[f"{judge}/auc"] = found.auc
    if result.decision is not None:
        metrics["probability_gap"] = result.decision.probabilities.gap.estimate
        metrics["f1"] = result.decision.f1
        metrics["expected_calibration_error"] = result.decision.expected_calibration_error
        metrics["brier"] = result.decision.brier
    if split in evaluation.train_minus:
        difference = evaluation.train_minus[split]
        metrics["train_minus/accuracy"] = difference.accuracy_over_problems.estimate
        metrics["train_minus/gap"] = difference.gap.estimate
        metrics["train_minus/probability_gap"] = difference.probability_gap.estimate
    return {f"eval/{split}/{name}": value for name, value in metrics.items() if value is not None}
