"""A whole sweep: train the grid, choose on half of valid, report on the rest, keep the winner.

The folder of a sweep holds
    winner/        the best head
    sweep.json     the result of every point
    run.json       the settings of the sweep, written last: it marks the sweep as finished
    writer.lock    keeps a second sweep out
    new/           a sweep that will replace this one
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from featurize.errors import CriticError
from featurize.io.files import sole_writer, write_json
from headtrain.head.checkpoint import (
    CheckpointError,
    HeadRecord,
    TrainedHead,
    load_head,
    write_head,
)
from headtrain.head.model import EnsembleModel
from headtrain.pairs.plan import pair_settings
from headtrain.settings import EvaluationSettings
from headtrain.sweep.grid import SweepPoint
from headtrain.sweep.groups import Candidate, TrainedCandidate, train_candidates
from headtrain.sweep.inputs import SweepReader, SweepSetup
from headtrain.sweep.result import (
    CURVE_FIGURE,
    CURVE_FILE,
    FIGURE_FILE,
    PAGE_FILE,
    RESULT_FILE,
    WINNER_FOLDER,
    PointResult,
    SweepResult,
    measure,
    measure_point,
    read_result,
)
from headtrain.tracking.tracker import Tracker, finishes
from headtrain.training.resume import Replacement, RunFile, trained_settings
from headtrain.training.run import refuse_mismatch
from headtrain.training.validation import fit_decision

FORMAT_VERSION = 1

SWEEP_FILES = (
    *(WINNER_FOLDER, RESULT_FILE, FIGURE_FILE, PAGE_FILE),
    *(CURVE_FILE, CURVE_FIGURE, "stacks"),
)
"""What a sweep writes besides run.json, with the curve of its winner.

Earlier versions kept trained heads in stacks/.
"""

logger = logging.getLogger(__name__)


class _TrainedPoint(NamedTuple):
    """A point of the grid with its heads, in the order of their seeds."""

    heads: Sequence[TrainedCandidate]
    result: PointResult


def run_sweep(
    setup: SweepSetup,
    points: Sequence[SweepPoint],
    *,
    folder: Path,
    tracker: Tracker,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SweepResult:
    """Train every point with every seed; sweep.json and the winner's head go into `folder`.

    The winner is the point whose heads, averaged over the seeds, have the highest accuracy over
    the problems of the choosing half. The saved head is the ensemble of its seeds. A finished
    sweep does nothing when it runs again, unless `overwrite` is set. `progress` gets the heads done
    and their number.

    Raises:
        ValueError: stores or settings that cannot be used, or every head diverged.
    """
    started = time.monotonic()
    refuse_mismatch(setup.train, setup.valid)
    identity = _identity(setup, points)
    replacement = Replacement(folder, SWEEP_FILES)
    replacement.complete_interrupted()
    if not overwrite and (finished := _read_finished(folder, identity)) is not None:
        return dataclasses.replace(finished, was_up_to_date=True)
    reader = SweepReader(setup, setup.memory(points[0]))
    for point in points:
        reader.columns(point)  # raises on a wrong setting before the folder is changed
    with sole_writer(folder):
        run_id = tracker.begin(points[0].run_config, None)
        with finishes(tracker):
            trained = _train(points, reader, progress)
            result = _to_result(trained, setup.evaluation, started)
            made = replacement.begin()
            _write_winner(trained[0], reader, result, made / WINNER_FOLDER, run_id)
            write_json(made / RESULT_FILE, result.to_dict())
            _track(trained, result, tracker, made)
        RunFile(made, FORMAT_VERSION).begin(identity, tracking_run_id=run_id, is_finished=True)
        replacement.finish()
    return result


def _identity(setup: SweepSetup, points: Sequence[SweepPoint]) -> dict[str, Any]:
    """Return what determines the result."""
    return {
        "train_features": setup.train.manifest.fingerprint,
        "valid_features": setup.valid.manifest.fingerprint,
        "save_checkpoint_every": setup.save_checkpoint_every,
        "mixed_precision": setup.mixed_precision,
        "points": [
            {
                "varied": dict(point.varied),
                "training": trained_settings(point.training),
                "data_sampling": dataclasses.asdict(point.sampling) | pair_settings(point.sampling),
            }
            for point in points
        ],
        "seeds": list(setup.seeds),
        "evaluation": {
            name: getattr(setup.evaluation, name)
            for name in ("train_holdout", "bootstrap_rounds", "confidence")
        },
    }


def _read_finished(folder: Path, identity: Mapping[str, Any]) -> SweepResult | None:
    """Read the result of a finished sweep with these settings; None if a part of it is missing."""
    file = RunFile(folder, FORMAT_VERSION)
    try:
        run = file.read()
        if run is None or not file.is_of(run, identity) or not run["is_finished"]:
            return None
        load_head(folder / WINNER_FOLDER)
        return read_result(SweepResult, folder / RESULT_FILE)
    except (CheckpointError, OSError, ValueError) as error:
        logger.warning("%s: the finished sweep is damaged (%s); sweeping again", folder, error)
        return None


def _train(
    points: Sequence[SweepPoint],
    reader: SweepReader,
    progress: Callable[[int, int], None] | None,
) -> list[_TrainedPoint]:
    """Train and measure all points, the best first."""
    candidates = [
        Candidate(point=point, seed=seed) for point in points for seed in reader.setup.seeds
    ]
    by_point: dict[str, list[TrainedCandidate]] = {}
    for head in train_candidates(candidates, reader, progress):
        by_point.setdefault(head.candidate.point.name, []).append(head)
    trained = []
    for heads in by_point.values():
        tensors = reader.columns(heads[0].candidate.point).tensors
        result = measure_point(heads, tensors, reader.setup.evaluation)
        trained.append(_TrainedPoint(heads, result))
    return sorted(trained, key=lambda one: -one.result.accuracy)


def _to_result(
    trained: Sequence[_TrainedPoint], evaluation: EvaluationSettings, started: float
) -> SweepResult:
    heads = [head for one in trained for head in one.heads]
    report = measure((head.report for head in trained[0].heads), evaluation)
    if report is None:
        raise CriticError(
            "every head of the sweep diverged; lower training.value_head_learning_rate"
        )
    return SweepResult(
        points=tuple(one.result for one in trained),
        report=report,
        num_heads=len(heads),
        seconds=time.monotonic() - started,
        seconds_training=sum(head.seconds for head in heads),
        confidence=evaluation.confidence,
    )


def _write_winner(
    winner: _TrainedPoint,
    reader: SweepReader,
    result: SweepResult,
    folder: Path,
    run_id: str | None,
) -> None:
    members = [head for head in winner.heads if head.choose is not None]
    models = [head.model.cpu() for head in members]
    point = winner.heads[0].candidate.point
    record = dataclasses.replace(
        HeadRecord.for_run(
            reader.spec(point),
            reader.train,
            reader.data(point),
            config=dict(point.run_config),
            tracking_run_id=run_id,
        ),
        num_members=len(models),
        step=max(head.best_step for head in members),
        metrics={
            "choose/accuracy_over_problems": winner.result.accuracy,
            "report/accuracy_over_problems": result.report.over_problems.estimate,
        },
        selection={
            "by": "choose/accuracy_over_problems",
            "of": result.num_heads,
            "points": len(result.points),
            "seeds": [head.candidate.seed for head in members],
            "steps": [head.best_step for head in members],
            "varied": dict(point.varied),
        },
    )
    model = EnsembleModel(models)
    head = TrainedHead(model=model.eval(), record=record, path=str(folder))
    fitted = dataclasses.asdict(fit_decision(reader.train, head))
    write_head(folder, model, dataclasses.replace(record, fitted=fitted))


def _track(
    trained: Sequence[_TrainedPoint], result: SweepResult, tracker: Tracker, folder: Path
) -> None:
    """Log a child run for every head, and the winner's accuracy."""
    for one in trained:
        for head, accuracy in zip(one.heads, one.result.of_seeds, strict=True):
            history = list(head.history)
            if accuracy is not None:
                final = {"choose/accuracy": accuracy, "best_step": float(head.best_step)}
                history.append((head.num_steps, final))
            seed = str(head.candidate.seed)
            parameters = {**one.result.varied, "seed": seed}
            tracker.log_child(f"{one.result.name} seed={seed}", parameters, history)
    tracker.log_metrics({"report/accuracy_over_problems": result.report.over_problems.estimate}, 0)
    tracker.log_files([folder / RESULT_FILE], "sweep")
