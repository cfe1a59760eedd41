"""The whole sweep: train the grid, choose on half of valid, report on the rest, keep the best."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featurize.errors import CriticError
from featurize.io.files import write_json
from featurize.store import FeatureStore, sole_writer
from headtrain.features.memory import FeatureMemory
from headtrain.head.checkpoint import TrainedHead, write_head
from headtrain.head.ensemble import EnsembleModel
from headtrain.pairs.pair_plan import pair_settings, read_excluded_problems
from headtrain.settings import EvaluationSettings
from headtrain.sweep.folder import SweepFolder
from headtrain.sweep.halves import split_in_two
from headtrain.sweep.kept import KeptStacks
from headtrain.sweep.points import SweepPoint, SweepReader
from headtrain.sweep.result import Judgement, PointResult, SweepResult, judge, judge_point
from headtrain.sweep.stacks import train_candidates
from headtrain.sweep.trained import Candidate, Trained
from headtrain.tracking import Tracker
from headtrain.training.decision import fit_decision
from headtrain.training.train import head_record, refuse_mismatch, trained_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A point with its heads, while the sweep runs."""

    point: SweepPoint
    heads: tuple[Trained, ...]
    result: PointResult
    report: Judgement | None

    @property
    def accuracy(self) -> float:
        """What is chosen by."""
        return self.result.choose.over_problems.estimate if self.result.choose else -1.0


def run_sweep(
    *,
    train: FeatureStore,
    valid: FeatureStore,
    points: Sequence[SweepPoint],
    seeds: Sequence[int],
    evaluation: EvaluationSettings,
    save_checkpoint_every: float | None,
    device: torch.device,
    mixed_precision: bool,
    folder: Path,
    tracker: Tracker,
    cache_dir: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SweepResult:
    """Train every point with every seed; sweep.json and the winner's head go into `folder`.

    The winner is the point whose seeds, averaged, have the highest accuracy over the problems of
    the choosing half. Its head is the ensemble of its seeds. A rerun of a finished sweep does
    nothing, one of a killed sweep trains only the stacks that were not finished; what it finds is
    the same. `overwrite` trains all of them again. Features that do not fit into memory lie in a
    file in cache_dir (default: folder) meanwhile.
    """
    started = time.monotonic()
    refuse_mismatch(train, valid)
    home = SweepFolder(folder)
    terms = {
        "train_features": train.manifest.fingerprint,
        "valid_features": valid.manifest.fingerprint,
        "save_checkpoint_every": save_checkpoint_every,
        "mixed_precision": mixed_precision,
    }
    identity = terms | _identity(points, seeds, evaluation)
    if not overwrite and (found := home.finished(identity)) is not None:
        return dataclasses.replace(found, was_up_to_date=True)
    reader = SweepReader(
        train,
        valid,
        split_in_two(valid),
        train_holdout=evaluation.train_holdout,
        device=device,
        memory=FeatureMemory(
            device=device,
            folder=cache_dir or folder,
            most_gb=points[0].training.max_feature_memory_gb,
        ),
    )
    for point in points:
        reader.columns(point)  # a mistake found here leaves the folder as it was
    with sole_writer(folder):
        if overwrite:
            home.clear()
        elif (found := home.finished(identity)) is not None:
            # The run that held the lock was this one.
            return dataclasses.replace(found, was_up_to_date=True)
        record = home.go_on(identity)
        parent = tracker.begin(points[0].run_config, record["tracking_run_id"])
        record = home.file.update(record, tracking_run_id=parent)
        kept = KeptStacks(home.stacks, reader, terms)
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                trained = train_candidates(
                    [Candidate(point=point, seed=seed) for point in points for seed in seeds],
                    reader,
                    kept,
                    save_checkpoint_every=save_checkpoint_every,
                    mixed_precision=mixed_precision,
                    progress=progress,
                )
                judged = _judge_all(trained, reader, evaluation, num_seeds=len(seeds))
            judged.sort(key=lambda one: -one.accuracy)
            winner = judged[0]
            if winner.report is None:
                raise CriticError(
                    "every head of the sweep diverged; lower training.value_head_learning_rate"
                )
            if kept.num_read:
                logger.info("%d heads were there from an earlier start", kept.num_read)
            result = SweepResult(
                points=tuple(one.result for one in judged),
                report=winner.report,
                num_heads=len(points) * len(seeds),
                seconds=kept.seconds + time.monotonic() - started,
                seconds_training=sum(head.seconds for one in judged for head in one.heads),
                confidence=evaluation.confidence,
            )
            _write_winner(winner, reader, result, home.winner, parent)
            write_json(home.result_file, result.to_dict())
            _track(judged, tracker)
            report = {"report/accuracy_over_problems": result.report.over_problems.estimate}
            tracker.log_metrics(report, 0)
            tracker.log_files([home.result_file], "sweep")
        except BaseException as error:
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        tracker.finish()
        home.file.update(record, is_finished=True)
        kept.clear()
        return result


def _identity(
    points: Sequence[SweepPoint], seeds: Sequence[int], evaluation: EvaluationSettings
) -> dict[str, Any]:
    """What decides the result besides the stores and what all heads have in common."""
    return {
        "points": [
            {
                "varied": dict(point.varied),
                "training": trained_settings(point.training),
                "data_sampling": dataclasses.asdict(point.sampling)
                | pair_settings(point.sampling, read_excluded_problems(point.sampling.pairwise)),
            }
            for point in points
        ],
        "seeds": list(seeds),
        "evaluation": {
            name: getattr(evaluation, name)
            for name in ("train_holdout", "bootstrap_rounds", "confidence")
        },
    }


def _judge_all(
    trained: Iterable[Trained],
    reader: SweepReader,
    evaluation: EvaluationSettings,
    *,
    num_seeds: int,
) -> list[_Judged]:
    """Every point is judged as soon as its last head is there."""
    waiting: dict[str, list[Trained]] = {}
    judged = []
    for head in trained:
        point = head.candidate.point
        heads = waiting.setdefault(point.name, [])
        heads.append(head)
        if len(heads) == num_seeds:
            heads.sort(key=lambda one: one.candidate.seed)
            judged.append(_judge(point, tuple(waiting.pop(point.name)), reader, evaluation))
    return judged


def _judge(
    point: SweepPoint,
    heads: tuple[Trained, ...],
    reader: SweepReader,
    evaluation: EvaluationSettings,
) -> _Judged:
    judged, tensors = reader.judged(point), reader.columns(point).tensors
    rounds, confidence = evaluation.bootstrap_rounds, evaluation.confidence
    values = [head.report for head in heads if head.report is not None]
    return _Judged(
        point=point,
        heads=heads,
        result=judge_point(point, heads, tensors, judged, rounds=rounds, confidence=confidence),
        report=judge(judged.report, values, rounds=rounds, confidence=confidence),
    )


def _write_winner(
    winner: _Judged, reader: SweepReader, result: SweepResult, folder: Path, run_id: str | None
) -> None:
    members = [head for head in winner.heads if head.choose is not None]
    models = [head.model.cpu() for head in members]
    assert winner.result.choose is not None, "a winner has a score"
    record = head_record(
        reader.train,
        winner.point.training,
        reader.columns(winner.point),
        reader.data(winner.point),
        dict(winner.point.run_config),
        run_id,
    )
    record = dataclasses.replace(
        record,
        num_members=len(models),
        step=max(head.best_step for head in members),
        metrics={
            "choose/accuracy_over_problems": winner.accuracy,
            "report/accuracy_over_problems": result.report.over_problems.estimate,
        },
        selection={
            "by": "choose/accuracy_over_problems",
            "of": result.num_heads,
            "points": len(result.points),
            "seeds": [head.candidate.seed for head in members],
            "steps": [head.best_step for head in members],
            "varied": dict(winner.point.varied),
        },
    )
    model = models[0] if len(models) == 1 else EnsembleModel(models)
    head = TrainedHead(model=model.eval(), record=record, path=str(folder))
    fitted = dataclasses.asdict(fit_decision(reader.train, head))
    write_head(folder, model, dataclasses.replace(record, fitted=fitted))


def _track(judged: Sequence[_Judged], tracker: Tracker) -> None:
    """A child run for every head, but for those an earlier start has noted."""
    noted = tracker.child_names()
    for one in judged:
        for head, accuracy in zip(one.heads, one.result.of_seeds, strict=True):
            parameters = {**one.point.varied, "seed": str(head.candidate.seed)}
            history = list(head.history)
            if accuracy is not None:
                final = {"choose/accuracy": accuracy, "best_step": float(head.best_step)}
                history.append((head.num_steps, final))
            name = f"{one.point.name} seed={head.candidate.seed}"
            if name not in noted:
                tracker.log_child(name, parameters, history)
