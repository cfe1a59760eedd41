"""The command line of critic: options, settings, a call into the library, tables.

Options are described in `configs.options`.
"""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs import options
from configs.checks import (
    demo_hint,
    refuse_options_of_torchrun,
    refuse_torchrun,
    refuse_unknown_baseline,
    refuse_unknown_export,
)
from configs.console import (
    CommandLine,
    CountProgress,
    Debug,
    columns_table,
    console,
    quiet_libraries,
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
def prepare_tests_command(
    source: options.ProblemSource,
    out: options.TestsFolder = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
    unsafe: options.Unsafe = False,
) -> None:
    """Label programs by running them: rewrites that pass the tests against mutants that fail.

    Settings are in the section `prepare`, e.g. --set prepare.correct=2.
    """
    from configs.steps.datasets import label_programs
    from featurize.data.prepare.from_tests.job import prepare_tests

    project = _load(config, overrides)
    folder = out or project.layout.datasets_dir / Path(source).name.split(".")[0]
    make = functools.partial(prepare_tests, source=source)
    label_programs(make, project, folder, overwrite=overwrite, is_unsafe_allowed=unsafe)


@prepare.command("doctests")
def prepare_doctests_command(
    packages: options.Packages,
    out: options.DoctestsFolder = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
    unsafe: options.Unsafe = False,
) -> None:
    """Label programs made from functions of installed packages by running their doctests.

    Settings are in the sections `prepare` and `prepare.doctests`.
    """
    from configs.steps.datasets import label_programs
    from featurize.data.prepare.from_tests.doctests.job import prepare_doctests

    project = _load(config, overrides)
    folder = out or project.layout.datasets_dir / "-".join(packages)
    make = functools.partial(prepare_doctests, packages=packages)
    label_programs(make, project, folder, overwrite=overwrite, is_unsafe_allowed=unsafe)


@prepare.command("codecontests")
def prepare_codecontests_command(
    source: options.CodeContestsSource,
    out: options.CodeContestsFolder = None,
    split_files: options.SplitFiles = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Turn CodeContests, as it is published, into samples: one file per split.

    Settings are in the section `prepare.codecontests`,
    e.g. --set prepare.codecontests.max_solutions=50.
    """
    from configs.steps.datasets import convert_codecontests

    project = _load(config, overrides)
    convert_codecontests(project, source, out, split_files or [], overwrite=overwrite)


def _prepare_harness_command(harness: Any, needs: str) -> Any:
    def command(
        source: Annotated[Path, typer.Option(help=needs)],
        out: options.RowsFile,
        problems: options.HarnessProblems = None,
        results: options.HarnessResults = None,
        overwrite: options.Overwrite = False,
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
def prepare_columns_command(
    source: options.Sources,
    out: options.ColumnsPath,
    columns: options.ColumnNames = None,
    correct_values: options.CorrectValues = None,
    incorrect_values: options.IncorrectValues = None,
    join: options.Join = None,
    on: options.JoinColumn = None,
    normalise: options.Normalise = None,
    rewrites: options.Rewrites = 0,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
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
        copies=rewrites,
        cache_dir=project.layout.cache_dir / "index",
        keeps_turns=project.settings.prompt.has_turns,
    )
    with CountProgress("prepare", "MB") as count:
        prepared = prepare_columns(job, overwrite=overwrite, progress=count)
    show_prepared(prepared, job.out)


@prepare.command("split")
def prepare_split_command(
    source: options.Sources,
    out: options.SplitsFolder,
    valid: options.Share = 0.1,
    test: options.Share = 0.1,
    seed: options.SplitSeed = 42,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
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


@app.command("audit", hint=demo_hint)
def audit_command(
    split: options.Split = "train",
    against: options.OtherSplit = None,
    tokens: options.CountsTokens = False,
    prompts: options.NumPrompts = None,
    strict: options.StrictAudit = False,
    config: options.Config = None,
    overrides: options.Overrides = None,
) -> None:
    """Show what a split would teach: overlap, labels, lengths, contradictions, and its tokens."""
    from configs.displays import show_prompts
    from configs.steps.datasets import audit
    from configs.steps.features import read_prompts
    from featurize.settings import to_split

    project = _load(config, overrides)
    split, other = to_split(split), to_split(against) if against is not None else None
    if split == other:
        raise ValueError(f"--against {against} is the split itself; name another one")
    index = project.open_index(split)
    if prompts is not None:
        show_prompts(read_prompts(project, index, prompts))
        return
    found = audit(project, split, index, other, has_tokens=tokens)
    if strict and (found.overlap.shared or found.labels.num_shared_ids):
        raise typer.Exit(1)


# --- features


@app.command("featurize", hint=demo_hint)
def featurize_command(
    split: options.Split,
    config: options.Config = None,
    overrides: options.Overrides = None,
    limit_problems: options.LimitProblems = None,
    pairs: options.PairsOnly = None,
    nproc_per_node: options.NumProcesses = None,
    plan_only: options.PlanOnly = False,
    repair: options.RepairUnits = False,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    debug: Debug = False,
) -> None:
    """Run the frozen backbone once and store the features of every sample of a split."""
    from configs.displays import show_notes
    from configs.project import command_to_repeat
    from configs.steps.features import plan_shown, run_shown

    if "RANK" in os.environ:
        refuse_options_of_torchrun(nproc_per_node, overwrite)
    project = _load(config, overrides, pairs)
    if plan_only or debug:
        show_notes(project.settings)
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
        plan_shown(job, title, choose=choose, strict=strict)
        return
    run_shown(job, title, choose=choose, workers=nproc_per_node, overwrite=overwrite, strict=strict)


@app.command("import-features", hint=demo_hint)
def import_features_command(
    states: options.States,
    split: options.Split,
    config: options.Config = None,
    overrides: options.Overrides = None,
    layers: options.StateLayers = None,
    skip_missing: options.SkipMissing = False,
    repair: options.RepairUnits = False,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
) -> None:
    """Store features of hidden states that vLLM wrote (extract_hidden_states)."""
    from configs.project import command_to_repeat
    from configs.steps.features import import_shown

    refuse_torchrun("import-features")
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


@app.command("merge-features", hint=demo_hint)
def merge_features_command(
    stores: options.Stores,
    split: options.Split,
    config: options.Config = None,
    overrides: options.Overrides = None,
    repair: options.RepairUnits = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Join the features of several datasets in one store, without another pass."""
    from configs.project import command_to_repeat
    from configs.steps.features import merge_shown

    refuse_torchrun("merge-features")
    job = _load(config, overrides).featurize_job(split, repair=repair, command=command_to_repeat())
    merge_shown(job, stores, overwrite=overwrite)


@app.command("inspect")
def inspect_command(store: options.Store, verify: options.Verify = False) -> None:
    """Show what a feature store holds, how it was made, and whether it is whole."""
    from featurize.store.inspect import TENSOR_COLUMNS, inspect_store

    with CountProgress("inspect", "units") as count:
        report = inspect_store(store, verify=verify, progress=count)
    console().print(rows_table(f"feature store {report.path}", report.describe()))
    if report.tensors:
        console().print(columns_table("tensors", TENSOR_COLUMNS, report.describe_tensors()))
    report.check()


# --- heads


@app.command("train-head", hint=demo_hint)
def train_head_command(
    pairs: options.NumPairs = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    distance: options.KeepDistance = False,
) -> None:
    """Train a value head on cached features of pairs of the same problem."""
    from configs.steps.training import keep_distances, train

    project = _load(config, overrides, pairs)
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


@app.command("sweep", hint=demo_hint)
def sweep_command(
    grid: options.Grid = None,
    seeds: options.NumSeeds = 1,
    curve: options.Curve = False,
    other_backbone: options.OtherBackbone = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
    distance: options.KeepDistance = False,
) -> None:
    """Train the heads of a grid all at once, compare them, and keep the best as an ensemble."""
    if other_backbone is not None and not curve:
        raise ValueError("--other-backbone needs --curve, which measures what it would bring")
    console().print(f"sweep: settings varied: {len(grid or [])}, seeds: {seeds}")
    from configs.displays import show_curve, show_sweep, show_sweep_page
    from configs.steps.training import keep_distances, sweep, sweep_points, winner_curve
    from headtrain.sweep.result import WINNER_FOLDER

    project = _load(config, overrides)
    points = sweep_points(config, overrides or [], grid or [])
    folder = project.layout.checkpoint_dir / "sweep"
    result = sweep(project, points, num_seeds=seeds, folder=folder, overwrite=overwrite)
    show_sweep(result, folder)
    if distance:
        keep_distances(project, [folder / WINNER_FOLDER])
    if curve:
        found = winner_curve(
            project, points, result, num_seeds=seeds, folder=folder, other=other_backbone
        )
        show_curve(found, folder)
    show_sweep_page(folder, project.settings.experiment.name)


@app.command("eval", hint=demo_hint)
def eval_command(
    split: options.Split = "valid",
    head: options.Head = None,
    data: options.PairsFile = None,
    baseline: options.Baseline = None,
    export: options.PairsExport = None,
    repair: options.RepairPairs = False,
    require: options.Require = None,
    details: options.Details = False,
    config: options.Config = None,
    overrides: options.Overrides = None,
) -> None:
    """Judge a head on a split: accuracy, gaps, and what trivial baselines get on the same pairs."""
    from configs.displays import show_requirements
    from configs.steps.evaluation import evaluate_file, evaluate_split
    from featurize.settings import to_split
    from headtrain.evaluation.requirements import parse_requirements

    refuse_unknown_baseline(baseline, data)
    refuse_unknown_export(export, data)
    required = [one for text in require or () for one in parse_requirements(text)]
    if data is not None:
        refuse_torchrun("eval --data")
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


@app.command("show", hint=demo_hint)
def show_command(
    problem: options.Problem = None,
    split: options.Split = "valid",
    head: options.Head = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
) -> None:
    """Show how a head ranks the outputs of one problem, and the best beside the worst."""
    from configs.steps.evaluation import show_problem

    show_problem(_load(config, overrides), split, head, problem)


@app.command("compare", hint=demo_hint)
def compare_command(
    first: options.FirstHead,
    second: options.SecondHead,
    split: options.Split = "valid",
    config: options.Config = None,
    overrides: options.Overrides = None,
) -> None:
    """Compare two heads on a split: which is better, how surely, and on which pairs."""
    from configs.steps.comparison import compare_heads
    from featurize.settings import to_split

    path = compare_heads(_load(config, overrides), first, second, to_split(split))
    console().print(f"comparison written to {path}")


@app.command("report", hint=demo_hint)
def report_command(
    heads: options.Heads,
    split: options.Split = "valid",
    config: options.Config = None,
    overrides: options.Overrides = None,
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
def score_command(
    file: options.ScoredFile,
    out: options.ScoresFile,
    head: options.Head = None,
    prefix: options.Prefix = "",
    best: options.Best = False,
    along: options.Along = None,
    distance: options.ScoreDistance = False,
    repair: options.RepairScored = False,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Copy the rows of a file and add a score, probability and rank to each."""
    console().print(f"score: {file}")
    from configs.steps.scoring import ScoreRequest, score_file

    refuse_torchrun("score")
    request = ScoreRequest(
        file=file,
        out=out,
        prefix=prefix,
        is_best=best,
        along=along,
        repair=repair,
        has_distance=distance,
        overwrite=overwrite,
    )
    title, rows = score_file(request, head, config, overrides or [])
    console().print(rows_table(title, rows))


@app.command("serve")
def serve_command(
    head: options.ServedHead,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    device: options.Device = "auto",
    backbone: options.Backbone = None,
    scale: options.Scale = "logit",
    window_ms: options.WindowMs = 5.0,
    max_waiting: options.MaxWaiting = 4096,
    policy_template: options.PolicyTemplate = "{prompt}",
    end: options.Ends = None,
) -> None:
    """Answer over HTTP: values, rewards and a page; a token is read from CRITIC_TOKEN."""
    console().print(f"serve: {head}")
    refuse_torchrun("serve")
    try:
        from headtrain.scoring.server.run import Server, is_loopback
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install critic[serve]") from error
    from headtrain.head.checkpoint import load_head
    from headtrain.scoring.critic import Critic
    from headtrain.scoring.server.service import Limits
    from headtrain.scoring.texts import TextRules
    from headtrain.scoring.verdict import to_scale

    load_head(head)  # a wrong folder ends the command before anything listens
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
def export_command(
    out: options.ExportFolder,
    to: options.ExportForm = "transformers",
    head: options.Head = None,
    custom: options.Custom = False,
    distil: options.Distil = False,
    register: options.Register = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a critic in a form that transformers, vLLM or MLflow load.

    A linear head on the last token of the last layer becomes a plain ForSequenceClassification;
    any other head a class whose code is in the folder and runs only with trust_remote_code.
    """
    from configs.head_project import HeadProject
    from configs.steps.export import export_head
    from configs.steps.training import distil as distil_head
    from configs.steps.training import distillation_rows

    refuse_torchrun("export")
    opened = HeadProject.load(head, config, overrides or [])
    trained = opened.head
    if distil:
        trained, read = distil_head(opened, config, overrides or [], overwrite=overwrite)
        rows = distillation_rows(opened.head, trained)
        console().print(rows_table(f"distilled to a linear head on {read}", rows))
    rows = export_head(
        opened, trained, out, to, register=register, is_custom=custom, overwrite=overwrite
    )
    console().print(rows_table(f"{trained.path} for {to} in {out}", rows))


@app.command("push")
def push_command(
    repo: options.Repository,
    head: options.Head = None,
    public: options.Public = False,
    config: options.Config = None,
    overrides: options.Overrides = None,
) -> None:
    """Upload a head with a model card to the Hugging Face Hub."""
    from configs.head_project import HeadProject
    from configs.steps.export import push

    opened = HeadProject.load(head, config, overrides or [])
    uri, has_verdict = push(opened, repo, private=not public)
    console().print(f"pushed {opened.head.path} to {uri}", soft_wrap=True)
    if not has_verdict:
        console().print("note: no evaluation found, so the card has none; run `critic eval` first")


# --- what commands share


def _load(
    config: Path | None, overrides: "Sequence[str] | None", pairs: int | None = None
) -> "Project":
    """The project of a configuration, with the number of pairs that a command asks for."""
    from configs.project import Project

    extra = [] if pairs is None else [f"data_sampling.pairwise.n_pairs={pairs}"]
    return Project.load(config, [*(overrides or []), *extra])


if __name__ == "__main__":
    app(prog_name="critic")
