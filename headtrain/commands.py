"""The commands that train: `critic train-head`."""

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
from configs.terminal import console, rows_table
from headtrain.project import make_tracker, open_store


@reports_errors
def train_head_command(
    pairs: Annotated[
        int | None, typer.Option(help="Pairs to sample [default: data_sampling.pairwise.n_pairs]")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a value head on cached features of pairs of the same problem."""
    from configs.loader import to_dict
    from featurize.model.device import resolve_device
    from featurize.progress import CountProgress
    from headtrain.train import train_head

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
            run_config=to_dict(settings),
            checkpoint_dir=layout.checkpoint_dir,
            tracker=make_tracker(settings, layout),
            overwrite=overwrite,
            mixed_precision=settings.runtime.mixed_precision,
            progress=lambda now: count(now.step, now.num_steps),
        )
    if result.was_up_to_date:
        console().print(f"train-head: up to date, nothing done: {layout.checkpoint_dir}")
    console().print(rows_table(f"head in {layout.checkpoint_dir}", result.describe()))
