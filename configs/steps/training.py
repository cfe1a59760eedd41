"""Steps that train heads with the settings of a project."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from configs.console import CountProgress, console, keep_fonts_in
from configs.head_project import HeadProject
from configs.loader import load_config, to_dict
from configs.project import Project

if TYPE_CHECKING:
    from featurize.store import FeatureStore
    from headtrain.head.checkpoint import TrainedHead
    from headtrain.sweep.curve import CurveResult
    from headtrain.sweep.grid import SweepPoint
    from headtrain.sweep.inputs import SweepSetup
    from headtrain.sweep.other_backbone import OtherBackbone
    from headtrain.sweep.result import SweepResult
    from headtrain.tracking.tracker import Tracker
    from headtrain.training.run import TrainResult


def train(
    project: Project,
    title: str,
    *,
    train: "FeatureStore",
    valid: "FeatureStore | None",
    folder: Path,
    tracker: "Tracker",
    overwrite: bool = False,
    strict: bool = False,
) -> "TrainResult":
    """Train a head in `folder`, with a progress bar of this title."""
    from featurize.model.device import resolve_device
    from headtrain.training.run import train_head

    settings = project.settings
    with CountProgress(title, "steps") as count:
        return train_head(
            train=train,
            valid=valid,
            training=settings.training,
            sampling=settings.data_sampling,
            checkpoint=settings.checkpoint,
            device=resolve_device(settings.runtime.device),
            seed=settings.runtime.seed,
            train_holdout=settings.evaluation.train_holdout,
            run_config=project.run_config,
            checkpoint_dir=folder,
            tracker=tracker,
            cache_dir=project.layout.cache_dir,
            overwrite=overwrite,
            strict=strict,
            mixed_precision=settings.runtime.mixed_precision,
            progress=count,
        )


def keep_distances(
    project: Project, folders: "Sequence[Path | None]", *, is_uploaded: bool
) -> None:
    """Keep the distance to train with the heads in these folders, and say so.

    `is_uploaded`: the heads are copied to checkpoint.s3_uri if the settings say so.
    """
    from headtrain.training.validation import keep_distance

    checkpoint, train_store = project.settings.checkpoint, project.open_store("train")
    uri = checkpoint.s3_uri if is_uploaded and checkpoint.s3_upload else None
    for folder in folders:
        if folder is not None:
            found = keep_distance(folder, train_store, uri)
            console().print(
                f"distance to train kept in {folder}: {found.num_rows:,} outputs of "
                f"{found.num_problems:,} problems"
            )


def distil(
    opened: HeadProject, config: Path | None, overrides: Sequence[str], *, overwrite: bool
) -> tuple["TrainedHead", str]:
    """Train a linear head on the last token of the last layer, on the given head's features.

    Returns the head and what it reads, as `last.LAYER`.
    """
    from headtrain.head.checkpoint import load_head
    from headtrain.tracking.tracker import Tracker

    given = opened.head
    features = opened.project.open_train_store_of(given)
    read = f"last.{features.manifest.recipe['backbone']['layers']}"
    shape = [
        f"training.features=[{read}]",
        "training.likelihood=false",
        "training.value_head_type=linear",
        "training.feature_mix=concat",
    ]
    project = HeadProject.load(given.path, config, [*overrides, *shape]).project
    folder = project.layout.checkpoint_dir / "distilled"
    train(
        project,
        "distil",
        train=features,
        valid=project.open_store_of(given, "valid") if project.has_valid else None,
        folder=folder,
        tracker=Tracker(),
        overwrite=overwrite,
    )
    return load_head(folder), read


def distillation_rows(given: "TrainedHead", distilled: "TrainedHead") -> dict[str, str]:
    """What distilling costs: the accuracies that both heads record."""
    after = distilled.record.metrics
    return {
        name: f"{value:.4f} -> {after[name]:.4f}"
        for name, value in given.record.metrics.items()
        if name in after and "accuracy" in name
    }


def sweep_points(
    config: Path | None, overrides: Sequence[str], grid: Sequence[str]
) -> "list[SweepPoint]":
    """Make a point for every combination of the grid, each with its own settings."""
    from headtrain.sweep.grid import SweepPoint, combine, parse_axis, to_overrides

    axes = [parse_axis(text) for text in grid]
    points = []
    for combination in combine(axes):
        one = load_config(config, [*overrides, *to_overrides(axes, combination)])
        points.append(
            SweepPoint(
                varied=combination,
                training=one.training,
                sampling=one.data_sampling,
                run_config=to_dict(one),
            )
        )
    return points


def sweep(
    project: Project,
    points: "Sequence[SweepPoint]",
    *,
    num_seeds: int,
    folder: Path,
    overwrite: bool,
) -> "SweepResult":
    """Train all points in `folder` with a bar, and choose the best; see `run_sweep`.

    Raises:
        ValueError: the dataset has no validation split, and as `run_sweep`.
    """
    keep_fonts_in(project.layout.cache_dir)
    from headtrain.sweep.run import run_sweep

    if not project.has_valid:
        raise ValueError("a sweep chooses on unseen problems: name a dataset.validation")
    with CountProgress("sweep", "heads") as count:
        return run_sweep(
            _sweep_setup(project, num_seeds),
            points,
            folder=folder,
            tracker=project.make_tracker(),
            overwrite=overwrite,
            progress=count,
        )


def winner_curve(
    project: Project,
    points: "Sequence[SweepPoint]",
    result: "SweepResult",
    *,
    num_seeds: int,
    folder: Path,
    other: "OtherBackbone | None" = None,
) -> "CurveResult":
    """Measure and draw the learning curve of a sweep's winner; one that is there is read.

    A curve without the gain of the `other` backbone is measured anew.
    """
    from featurize.io.files import write_json
    from headtrain.report.curve import draw_curve
    from headtrain.sweep.curve import MIN_SEEDS, CurveResult, measure_curve
    from headtrain.sweep.result import CURVE_FIGURE, CURVE_FILE, read_result

    path = folder / CURVE_FILE
    # NOTE: a new sweep deletes the curve, so a curve in the folder is one of this sweep.
    found = read_result(CurveResult, path) if path.exists() else None
    if found is None or not _has_gain_of(found, other):
        with CountProgress("curve", "sizes") as count:
            found = measure_curve(
                _sweep_setup(project, max(MIN_SEEDS, num_seeds)),
                next(point for point in points if point.name == result.points[0].name),
                other=other,
                progress=count,
            )
        write_json(path, asdict(found))
        draw_curve(found, folder / CURVE_FIGURE)
    return found


def open_other_backbone(
    project: Project, points: "Sequence[SweepPoint]", folder: Path
) -> "OtherBackbone":
    """Open the features that another backbone has of the samples of a sweep; see its `open`."""
    from headtrain.sweep.other_backbone import OtherBackbone

    return OtherBackbone.open(
        folder, project.open_store("train"), project.open_store("valid"), points
    )


def _has_gain_of(found: "CurveResult", backbone: "OtherBackbone | None") -> bool:
    """Whether the curve says what the features of this backbone bring, if one is given."""
    gain = found.larger_backbone
    return backbone is None or (gain is not None and gain.features == backbone.fingerprints)


def _sweep_setup(project: Project, num_seeds: int) -> "SweepSetup":
    from featurize.model.device import resolve_device
    from headtrain.sweep.inputs import SweepSetup

    settings = project.settings
    return SweepSetup(
        train=project.open_store("train"),
        valid=project.open_store("valid"),
        seeds=[settings.runtime.seed + place for place in range(num_seeds)],
        evaluation=settings.evaluation,
        save_checkpoint_every=settings.checkpoint.save_checkpoint_every,
        device=resolve_device(settings.runtime.device),
        mixed_precision=settings.runtime.mixed_precision,
        cache_dir=project.layout.cache_dir,
    )
