"""The commands that train heads: `critic train-head` and `critic sweep`, and distilled heads."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from configs.console import CountProgress, console, keep_fonts_in, rows_table, show_up_to_date
from configs.options import Chosen

if TYPE_CHECKING:
    from configs.project import HeadProject, Project
    from featurize.store import FeatureStore
    from headtrain.head.checkpoint import TrainedHead
    from headtrain.sweep.curve import CurveResult
    from headtrain.sweep.grid import SweepPoint
    from headtrain.sweep.inputs import SweepSetup
    from headtrain.sweep.other_backbone import OtherBackbone
    from headtrain.sweep.result import SweepResult
    from headtrain.tracking.tracker import Tracker
    from headtrain.training.run import TrainResult


def train_head(
    chosen: Chosen,
    pairs: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    distance: bool = False,
) -> None:
    """Train a value head on the cached features of pairs."""
    project = chosen.with_pairs(pairs).project()
    folder = project.layout.checkpoint_dir
    result = _train(
        project,
        "train-head",
        train=project.open_store("train"),
        valid=project.open_store("valid") if project.has_valid else None,
        folder=folder,
        tracker=project.make_tracker(),
        overwrite=overwrite,
        strict=strict,
    )
    if result.was_up_to_date:
        show_up_to_date("train-head", folder)
    console().print(rows_table(f"head in {folder}", result.describe()))
    if distance:
        _keep_distances(project, [result.best, result.final], is_uploaded=True)


def _train(
    project: "Project",
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


def _keep_distances(
    project: "Project", folders: "Sequence[Path | None]", *, is_uploaded: bool
) -> None:
    """Save the distance to train with the heads in these folders, and say so.

    `is_uploaded`: the heads are copied to checkpoint.s3_uri if the settings say so.
    """
    from headtrain.training.validation import keep_distance

    checkpoint, train_store = project.settings.checkpoint, project.open_store("train")
    uri = checkpoint.s3_uri if is_uploaded and checkpoint.s3_upload else None
    for folder in folders:
        if folder is not None:
            found = keep_distance(folder, train_store, uri)
            console().print(
                f"distance to train saved in {folder}: {found.num_rows:,} outputs of "
                f"{found.num_problems:,} problems"
            )


def distil(opened: "HeadProject", chosen: Chosen, *, overwrite: bool) -> "TrainedHead":
    """Train a linear head on the last token of the last layer, on the given head's features.

    Shows what distilling costs: the accuracies that both heads record.
    """
    from configs.project import HeadProject
    from headtrain.head.checkpoint import load_head
    from headtrain.tracking.tracker import Tracker

    given = opened.head
    features = opened.project.open_train_store_of(given)
    read = f"last.{features.manifest.recipe['backbone']['layers']}"
    shape = chosen.override(
        f"training.features=[{read}]",
        "training.likelihood=false",
        "training.value_head_type=linear",
        "training.feature_mix=concat",
    )
    project = HeadProject.load(given.path, shape).project
    folder = project.layout.checkpoint_dir / "distilled"
    _train(
        project,
        "distil",
        train=features,
        valid=project.open_store_of(given, "valid") if project.has_valid else None,
        folder=folder,
        tracker=Tracker(),
        overwrite=overwrite,
    )
    distilled = load_head(folder)
    after = distilled.record.metrics
    rows = {
        name: f"{value:.4f} -> {after[name]:.4f}"
        for name, value in given.record.metrics.items()
        if name in after and "accuracy" in name
    }
    console().print(rows_table(f"distilled to a linear head on {read}", rows))
    return distilled


def sweep(
    chosen: Chosen,
    grid: list[str] | None = None,
    seeds: int = 1,
    curve: bool = False,
    other_backbone: Path | None = None,
    overwrite: bool = False,
    distance: bool = False,
) -> None:
    """Train the heads of a grid all at once, compare them, and keep the best as an ensemble."""
    if other_backbone is not None and not curve:
        raise ValueError("--other-backbone needs --curve, which measures what it would bring")
    console().print(f"sweep: settings varied: {len(grid or [])}, seeds: {seeds}")
    project = chosen.project()
    points = _sweep_points(chosen, grid or [])
    folder = project.layout.checkpoint_dir / "sweep"
    keep_fonts_in(project.layout.cache_dir)
    from headtrain.report.sweep import write_sweep_page
    from headtrain.sweep.other_backbone import OtherBackbone
    from headtrain.sweep.result import WINNER_FOLDER
    from headtrain.sweep.run import run_sweep

    if not project.has_valid:
        raise ValueError("a sweep chooses on unseen problems: name a dataset.validation")
    setup, other = _sweep_setup(project, seeds), None
    if other_backbone is not None:
        other = OtherBackbone.open(other_backbone, setup.train, setup.valid, points)
    with CountProgress("sweep", "heads") as count:
        result = run_sweep(
            setup,
            points,
            folder=folder,
            tracker=project.make_tracker(),
            overwrite=overwrite,
            progress=count,
        )
    _show_sweep(result, folder)
    if distance:
        _keep_distances(project, [folder / WINNER_FOLDER], is_uploaded=False)
    if curve:
        winner = next(point for point in points if point.name == result.points[0].name)
        _show_curve(project, winner, num_seeds=seeds, folder=folder, other=other)
    console().print(f"page in {write_sweep_page(folder, project.settings.experiment.name)}")


def _sweep_points(chosen: Chosen, grid: Sequence[str]) -> "list[SweepPoint]":
    """Make a point for every combination of the grid, each with its own settings."""
    from configs.loader import to_dict
    from headtrain.sweep.grid import SweepPoint, combine, parse_axis, to_overrides

    axes = [parse_axis(text) for text in grid]
    points = []
    for combination in combine(axes):
        one = chosen.override(*to_overrides(axes, combination)).load()
        points.append(
            SweepPoint(
                varied=combination,
                training=one.training,
                sampling=one.data_sampling,
                run_config=to_dict(one),
            )
        )
    return points


def _show_sweep(result: "SweepResult", folder: Path) -> None:
    """The points of a sweep, its winner and the files; draws the figure if it is not there."""
    from headtrain.report.sweep import draw_sweep, points_table, winner_rows
    from headtrain.sweep.result import FIGURE_FILE, RESULT_FILE, WINNER_FOLDER

    figure = folder / FIGURE_FILE
    if result.was_up_to_date:
        show_up_to_date("sweep", folder)
    if not result.was_up_to_date or not figure.exists():
        draw_sweep(result, figure)
    console().print(points_table(result))
    console().print(rows_table(f"head in {folder / WINNER_FOLDER}", winner_rows(result)))
    console().print(f"all points in {folder / RESULT_FILE}, drawn in {figure}")


def _show_curve(
    project: "Project",
    winner: "SweepPoint",
    *,
    num_seeds: int,
    folder: Path,
    other: "OtherBackbone | None",
) -> None:
    """Measure, draw and show the learning curve of a sweep's winner; one that is there is read.

    A curve without the gain of the `other` backbone is measured again.
    """
    from featurize.io.files import write_json
    from headtrain.report.sweep import curve_rows, draw_curve
    from headtrain.sweep.curve import MIN_SEEDS, CurveResult, measure_curve
    from headtrain.sweep.result import CURVE_FIGURE, CURVE_FILE, read_result

    path = folder / CURVE_FILE
    # NOTE: a new sweep deletes the curve, so a curve in the folder is one of this sweep.
    found = read_result(CurveResult, path) if path.exists() else None
    if found is None or not _has_gain_of(found, other):
        with CountProgress("curve", "sizes") as count:
            setup = _sweep_setup(project, max(MIN_SEEDS, num_seeds))
            found = measure_curve(setup, winner, other=other, progress=count)
        write_json(path, asdict(found))
        draw_curve(found, folder / CURVE_FIGURE)
    console().print(rows_table("learning curve of the winner", curve_rows(found)))
    console().print(found.verdict)
    console().print(f"the curve in {path}, drawn in {folder / CURVE_FIGURE}")


def _has_gain_of(found: "CurveResult", backbone: "OtherBackbone | None") -> bool:
    """Whether the curve says what the features of this backbone bring, if one is given."""
    gain = found.larger_backbone
    return backbone is None or (gain is not None and gain.features == backbone.fingerprints)


def _sweep_setup(project: "Project", num_seeds: int) -> "SweepSetup":
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
