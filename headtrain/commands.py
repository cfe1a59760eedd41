"""The commands that train: `critic train-head`, and `critic sweep` for many heads at once."""

from typing import Annotated

import typer

from configs.command import (
    ConfigOption,
    DebugOption,
    OverwriteOption,
    SetOption,
    load_settings,
    reports_errors,
)
from configs.project import make_tracker, open_store
from configs.terminal import console, rows_table


@reports_errors
def train_head_command(
    pairs: Annotated[
        int | None,
        typer.Option(help="Pairs to sample", show_default="data_sampling.pairwise.n_pairs"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a value head on cached features of pairs of the same problem."""
    from configs.loader import to_dict
    from configs.progress import CountProgress
    from featurize.model.device import resolve_device
    from headtrain.training.train import train_head

    extra = [] if pairs is None else [f"data_sampling.pairwise.n_pairs={pairs}"]
    settings, layout = load_settings(config, [*(overrides or []), *extra])
    train = open_store(settings, layout, "train")
    has_valid = settings.dataset.validation is not None
    valid = open_store(settings, layout, "valid") if has_valid else None
    with CountProgress(console(), "train-head", "steps") as count:
        result = train_head(
            train=train,
            valid=valid,
            training=settings.training,
            sampling=settings.data_sampling,
            checkpoint=settings.checkpoint,
            device=resolve_device(settings.runtime.device),
            seed=settings.runtime.seed,
            train_holdout=settings.evaluation.train_holdout,
            run_config=to_dict(settings),
            checkpoint_dir=layout.checkpoint_dir,
            tracker=make_tracker(settings, layout),
            cache_dir=layout.cache_dir,
            overwrite=overwrite,
            mixed_precision=settings.runtime.mixed_precision,
            progress=lambda now: count(now.step, now.num_steps),
        )
    if result.was_up_to_date:
        console().print(f"train-head: up to date, nothing done: {layout.checkpoint_dir}")
    console().print(rows_table(f"head in {layout.checkpoint_dir}", result.describe()))


@reports_errors
def sweep_command(
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="What to vary, e.g. features=mean.12,mean.12+last.24 or"
            " training.dropout=0.1,0.3; repeatable, all combinations are tried.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Heads at each point, averaged.")] = 1,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Train the heads of a grid all at once, compare them, and keep the best as an ensemble."""
    from configs.loader import load_config, to_dict
    from configs.progress import CountProgress
    from featurize.model.device import resolve_device
    from headtrain.report.sweep_figure import draw_sweep
    from headtrain.sweep.folder import FIGURE_FILE, RESULT_FILE, WINNER
    from headtrain.sweep.grid import combine, parse_axis, to_overrides
    from headtrain.sweep.points import SweepPoint
    from headtrain.sweep.run import run_sweep
    from headtrain.sweep.tables import points_table, winner_rows

    settings, layout = load_settings(config, overrides)
    axes = [parse_axis(text) for text in grid or []]
    points = []
    for combination in combine(axes):
        one = load_config(config, [*(overrides or []), *to_overrides(axes, combination)])
        points.append(
            SweepPoint(
                varied=combination,
                training=one.training,
                sampling=one.data_sampling,
                run_config=to_dict(one),
            )
        )
    if settings.dataset.validation is None:
        raise ValueError("a sweep chooses on unseen problems: name a dataset.validation")
    folder = layout.checkpoint_dir / "sweep"
    with CountProgress(console(), "sweep", "heads") as count:
        result = run_sweep(
            train=open_store(settings, layout, "train"),
            valid=open_store(settings, layout, "valid"),
            points=points,
            seeds=[settings.runtime.seed + place for place in range(seeds)],
            evaluation=settings.evaluation,
            save_checkpoint_every=settings.checkpoint.save_checkpoint_every,
            device=resolve_device(settings.runtime.device),
            mixed_precision=settings.runtime.mixed_precision,
            folder=folder,
            tracker=make_tracker(settings, layout),
            cache_dir=layout.cache_dir,
            overwrite=overwrite,
            progress=count,
        )
    figure = folder / FIGURE_FILE
    if result.was_up_to_date:
        console().print(f"sweep: up to date, nothing done: {folder}")
    if not result.was_up_to_date or not figure.exists():
        draw_sweep(result, figure)
    console().print(points_table(result))
    console().print(rows_table(f"head in {folder / WINNER}", winner_rows(result)))
    console().print(f"all points in {folder / RESULT_FILE}, drawn in {figure}")
