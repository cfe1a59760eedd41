"""Judges a trained head on feature stores and keeps the result as JSON."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.arrays import Floats
from featurize.io.files import read_json, write_json
from featurize.store import FeatureStore
from headtrain.evaluation.evaluate import evaluate
from headtrain.evaluation.results import Evaluation, PairResult
from headtrain.evaluation.samples.reading import ReadSplit, read_splits
from headtrain.evaluation.samples.texts import TextSource
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.calibration import Decision
from headtrain.settings import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An evaluation, and the samples it is of."""

    evaluation: Evaluation
    splits: Mapping[str, ReadSplit]


def judge_head(
    head: TrainedHead,
    stores: Mapping[str, FeatureStore],
    settings: EvaluationSettings,
    *,
    texts: Mapping[str, TextSource] | None = None,
    closely: Collection[str] | None = None,
    seed: int = 0,
    decision: Decision | None = None,
    baselines: Mapping[str, Mapping[str, Floats]] | None = None,
) -> Judgement:
    """The head on every store by the name of its split; `train` fits calibration and threshold.

    Where there is no `train`, they are the given decision.

    `baselines` are scores of other trained judges, by split and name, [samples] of the store; they
    stand beside the shortcuts.

    `closely` names the splits whose every side is looked at, see `evaluate`.

    Raises:
        ValueError: a store of another recipe, or without a problem that has both labels.
    """
    splits = read_splits(head, stores, settings, texts=texts, seed=seed, baselines=baselines)
    evaluation = evaluate(
        splits={name: split.scored for name, split in splits.items()},
        shortcuts={name: split.shortcuts for name, split in splits.items()},
        facts={name: split.facts for name, split in splits.items()},
        settings=settings,
        seed=seed,
        closely=closely,
        decision=None if "train" in splits else decision,
    )
    return Judgement(evaluation=evaluation, splits=splits)


def write_evaluation(
    path: Path,
    evaluation: Evaluation,
    head: TrainedHead,
    *,
    benchmark: Mapping[str, Any] | None = None,
) -> bool:
    """Writes the evaluation as JSON, beside what it is of; False where it stood there already."""
    about = {
        "path": head.path,
        "weights_checksum": head.record.weights_checksum,
        "recipe_fingerprint": head.record.recipe_fingerprint,
    }
    more = {} if benchmark is None else {"benchmark": benchmark}
    content = json.loads(json.dumps({"head": about, **more, **evaluation.to_dict()}))
    if path.exists() and read_json(path) == content:
        return False
    write_json(path, content)
    return True


def to_metrics(evaluation: Evaluation, split: str) -> dict[str, float]:
    """The numbers of one split under names a tracking server can plot."""
    result, details = evaluation.splits[split], evaluation.details.get(split)
    metrics: dict[str, float | None] = {
        "mean_correct": result.values.mean_correct.estimate,
        "mean_incorrect": result.values.mean_incorrect.estimate,
        "gap": result.values.gap.estimate,
    }
    for judge, found in result.judges.items():
        metrics |= _pair_metrics(judge, found)
        metrics[f"{judge}/auc"] = found.auc.estimate
    if result.variance.between_problems is not None:
        metrics["variance_between_problems"] = result.variance.between_problems.estimate
    if result.decision is not None:
        metrics["probability_gap"] = result.decision.probabilities.gap.estimate
        metrics["f1"] = result.decision.f1.estimate
        metrics["expected_calibration_error"] = result.decision.expected_calibration_error.estimate
        metrics["brier"] = result.decision.brier.estimate
    if split in evaluation.train_minus:
        difference = evaluation.train_minus[split]
        metrics["train_minus/accuracy"] = difference.accuracy_over_problems.estimate
        metrics["train_minus/gap"] = difference.gap.estimate
        metrics["train_minus/probability_gap"] = difference.probability_gap.estimate
    if details is not None:
        if details.verdict is not None:
            metrics |= _pair_metrics("unexplained", details.verdict.margin)
        if details.length_correlation is not None:
            metrics["length_correlation"] = details.length_correlation.estimate
        for part in (details.length_matched, details.minimal_pairs):
            if part is not None:
                name = "length_matched" if part is details.length_matched else "minimal_pairs"
                metrics |= _pair_metrics(name, part.judges["head"])
        if details.best_of_n is not None:
            picked = details.best_of_n.pickers["head"]
            for n, rate in zip(details.best_of_n.n, picked, strict=True):
                metrics[f"best_of_{n}"] = rate.estimate
    return {f"eval/{split}/{name}": value for name, value in metrics.items() if value is not None}


def _pair_metrics(name: str, found: PairResult) -> dict[str, float | None]:
    return {
        f"{name}/accuracy_over_pairs": found.accuracy_over_pairs.estimate,
        f"{name}/accuracy_over_problems": found.accuracy_over_problems.estimate,
        f"{name}/accuracy_over_problems_low": found.accuracy_over_problems.low,
        f"{name}/accuracy_over_problems_high": found.accuracy_over_problems.high,
    }
