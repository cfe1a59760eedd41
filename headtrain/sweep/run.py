"""The whole sweep: train the grid, choose on half of valid, report on the rest, keep the best."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from featurize.files import write_json
from featurize.store import FeatureStore
from headtrain.checkpoint import write_head
from headtrain.ensemble import EnsembleModel
from headtrain.loop import TrainingError
from headtrain.settings import EvaluationSettings
from headtrain.sweep.halves import split_in_two
from headtrain.sweep.points import SweepPoint, SweepReader
from headtrain.sweep.result import Judgement, PointResult, SweepResult, judge, judge_point
from headtrain.sweep.stacks import Candidate, Trained, train_candidates
from headtrain.tracking import Tracker
from headtrain.train import head_record, refuse_mismatch

RESULT_FILE, WINNER = "sweep.json", "winner"


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
    progress: Callable[[int, int], None] | None = None,
) -> SweepResult:
    """Train every point with every seed; sweep.json and the winner's head go into `folder`.

    The winner is the point whose seeds, averaged, have the highest accuracy over the problems of
    the choosing half. Its head is the ensemble of its seeds.
    """
    started = time.monotonic()
    refuse_mismatch(train, valid)
    reader = SweepReader(
        train,
        valid,
        split_in_two(valid),
        train_holdout=evaluation.train_holdout,
        device=device,
    )
    parent = tracker.begin(points[0].run_config, None)
    judged: list[_Judged] = []
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            judged = _train(
                points,
                seeds,
                reader,
                evaluation,
                save_checkpoint_every=save_checkpoint_every,
                mixed_precision=mixed_precision,
                progress=progress,
            )
        trained = time.monotonic()
        judged.sort(key=lambda one: -one.accuracy)
        winner = judged[0]
        if winner.report is None:
            raise TrainingError(
                "every head of the sweep diverged; lower training.value_head_learning_rate"
            )
        result = SweepResult(
            points=tuple(one.result for one in judged),
            report=winner.report,
            num_heads=len(points) * len(seeds),
            seconds=time.monotonic() - started,
            seconds_training=trained - started,
            confidence=evaluation.confidence,
        )
        _write_winner(winner, reader, result, folder / WINNER, parent)
        write_json(folder / RESULT_FILE, result.to_dict())
        _track(judged, tracker)
    except BaseException as error:
        tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracker.log_metrics({"report/accuracy_over_problems": result.report.over_problems.estimate}, 0)
    tracker.log_files([folder / RESULT_FILE], "sweep")
    tracker.finish()
    return result


def _train(
    points: Sequence[SweepPoint],
    seeds: Sequence[int],
    reader: SweepReader,
    evaluation: EvaluationSettings,
    *,
    save_checkpoint_every: float | None,
    mixed_precision: bool,
    progress: Callable[[int, int], None] | None,
) -> list[_Judged]:
    """Every point is judged as soon as its last head is trained: then its inputs may go."""
    candidates = [Candidate(point=point, seed=seed) for point in points for seed in seeds]
    waiting: dict[str, list[Trained]] = {}
    judged = []
    for head in train_candidates(
        candidates,
        reader,
        save_checkpoint_every=save_checkpoint_every,
        mixed_precision=mixed_precision,
        progress=progress,
    ):
        point = head.candidate.point
        heads = waiting.setdefault(point.name, [])
        heads.append(head)
        if len(heads) == len(seeds):
            heads.sort(key=lambda one: one.candidate.seed)
            judged.append(_judge(point, tuple(waiting.pop(point.name)), reader, evaluation))
    return judged


def _judge(
    point: SweepPoint,
    heads: tuple[Trained, ...],
    reader: SweepReader,
    evaluation: EvaluationSettings,
) -> _Judged:
    inputs = reader.inputs(point)
    rounds, confidence = evaluation.bootstrap_rounds, evaluation.confidence
    values = [head.report for head in heads if head.report is not None]
    return _Judged(
        point=point,
        heads=heads,
        result=judge_point(point, heads, inputs, rounds=rounds, confidence=confidence),
        report=judge(inputs.report, values, rounds=rounds, confidence=confidence),
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
    write_head(folder, models[0] if len(models) == 1 else EnsembleModel(models), record)


def _track(judged: Sequence[_Judged], tracker: Tracker) -> None:
    """A child run for every head."""
    for one in judged:
        for head, accuracy in zip(one.heads, one.result.of_seeds, strict=True):
            parameters = {**one.point.varied, "seed": str(head.candidate.seed)}
            history = list(head.history)
            if accuracy is not None:
                final = {"choose/accuracy": accuracy, "best_step": float(head.best_step)}
                history.append((head.num_steps, final))
            name = f"{one.point.name} seed={head.candidate.seed}"
            tracker.log_child(name, parameters, history)
