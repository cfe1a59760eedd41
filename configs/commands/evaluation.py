"""The commands that evaluate a head: `critic eval` and `critic show`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.commands.features import featurize_file, score_random_backbone
from configs.console import (
    UP_TO_DATE,
    columns_table,
    console,
    end_unmet,
    keep_fonts_in,
    refuse_torchrun,
    rows_table,
)
from configs.options import Chosen

if TYPE_CHECKING:
    from configs.project import Project
    from featurize.store import FeatureStore
    from headtrain.evaluation.benchmarks import BenchmarkResults
    from headtrain.evaluation.evaluate import EvaluatedHead, ReadSplit
    from headtrain.evaluation.numbers import Number
    from headtrain.evaluation.results import Evaluation
    from headtrain.head.checkpoint import TrainedHead
    from headtrain.report.page import WrittenEvaluation

# NOTE: a finished evaluation is shown again without importing torch.


def evaluate(
    chosen: Chosen,
    split: str = "valid",
    head: str | None = None,
    data: str | None = None,
    baseline: str | None = None,
    export: str | None = None,
    repair: bool = False,
    require: list[str] | None = None,
    details: bool = False,
) -> None:
    """Evaluate a head on a split: accuracy, gaps, and trivial baselines on the same pairs."""
    from featurize.settings import to_split
    from headtrain.evaluation.findings import check_requirements, parse_requirements

    _refuse_unfit_options(data, baseline, export, repair=repair)
    required = [one for text in require or () for one in parse_requirements(text)]
    more: Sequence[Number] = ()
    if data is not None:
        refuse_torchrun("eval --data")
        evaluation, name, more = _evaluate_file(
            data, head, chosen, repair=repair, detailed=details, export=export
        )
    else:
        project, name = chosen.project(), to_split(split)
        evaluation = _evaluate_split(project, name, head, baseline, detailed=details)
    failures = check_requirements(required, evaluation, name, more)
    for failure in failures:
        console().print(f"required, but fails: {failure}")
    if failures:
        end_unmet()
    if required:
        console().print(f"all {len(required)} requirements hold")


def _refuse_unfit_options(
    data: str | None, baseline: str | None, export: str | None, *, repair: bool
) -> None:
    """Raise ValueError for options that do not exist, or do not fit what is evaluated."""
    if baseline not in (None, "random-backbone"):
        raise ValueError(f"--baseline {baseline!r} is unknown; there is random-backbone")
    if baseline is not None and data is not None:
        raise ValueError("--baseline is trained for splits; leave it or --data out")
    if baseline is not None:
        refuse_torchrun("eval --baseline random-backbone")
    if export not in (None, "rewardbench"):
        raise ValueError(f"--export {export!r} is unknown; the only one is rewardbench")
    if export is not None and data is None:
        raise ValueError(f"--export {export} needs --data, a file of pairs; see docs/evaluation.md")
    if repair and data is None:
        raise ValueError(
            "--repair needs --data; `critic featurize --repair` repairs the features of a split"
        )


def _evaluate_split(
    project: "Project", split: str, head: str | None, baseline: str | None, *, detailed: bool
) -> "Evaluation":
    """Evaluate a head on a split, write and show the evaluation; one that is there is shown."""
    settings, layout = project.settings, project.layout
    console().print(f"eval: {split} split of {settings.experiment.name}")
    inputs = _find_inputs(project, head, split, baseline)
    if (finished := _show_finished(inputs, split, detailed=detailed)) is not None:
        return finished
    keep_fonts_in(layout.cache_dir)
    from headtrain.evaluation.files import record_inputs
    from headtrain.head.checkpoint import load_head

    trained = load_head(layout.checkpoint_dir if head is None else head)
    if not trained.record.is_finished:
        console().print(
            f"note: {trained.path} is from a run that has not finished, or from an older version;"
            " run the same `critic train-head` again to finish it"
        )
    stores = {str(name): project.open_store(name) for name in {"train": 0, split: 0}}
    done = _evaluate_store(
        project,
        trained,
        stores,
        split,
        texts={name: project.open_texts(name, store) for name, store in stores.items()},
        about={
            "dataset": settings.dataset.name,
            "backbone": settings.models.policy.name,
            "step": str(trained.record.step),
        },
        detailed=detailed,
        baselines=None if baseline is None else score_random_backbone(project, trained, stores),
    )
    if (found := _find_inputs(project, head, split, baseline)) is not None:
        record_inputs(*found, done.written.files)
    return done.head.evaluation


def _evaluate_file(
    data: str,
    head: str | None,
    chosen: Chosen,
    *,
    repair: bool,
    detailed: bool,
    export: str | None,
) -> tuple["Evaluation", str, "list[Number]"]:
    """Evaluate a head on a file of pairs that is not a split, and export its scores.

    Also returns the file's name and the numbers in the benchmark's own metrics.
    """
    console().print(f"eval: {data}")
    from configs.project import HeadProject, texts_of
    from featurize.data.pair_rows import attribute_of, read_benchmark_rows, write_plain_rows
    from featurize.errors import FeatureStoreError

    opened = HeadProject.load(head, chosen)
    trained, project = opened.head, opened.project
    settings, layout = project.settings, project.layout
    keep_fonts_in(layout.cache_dir)
    from headtrain.evaluation.benchmarks import measure_benchmark
    from headtrain.evaluation.files import data_name, to_name
    from headtrain.evaluation.reward_bench import read_answers, write_reward_bench

    keeps_turns = project.settings.prompt.has_turns
    rows = write_plain_rows(data, layout.cache_dir / "pairs", keeps_turns=keeps_turns)
    index, pairs = project.index_files(str(rows)), read_benchmark_rows(rows)
    if export is not None and not pairs:
        raise ValueError(
            f"--export {export}: {data} has no rows with chosen and rejected answers; leave the "
            "option out, or give a file of pairs"
        )
    store = featurize_file(opened, index, repair=repair)
    name = data_name(data, index.content_fingerprint)
    stores, texts = {name: store}, {name: texts_of(index, store)}
    try:
        train = project.open_train_store_of(trained)
    except FeatureStoreError:
        console().print("the train features are gone: no n-grams, no train column")
    else:
        stores = {"train": train, **stores}
        texts["train"] = project.open_texts("train", train)
    stream = [settings.runtime.seed, *name.encode()]
    aspects = attribute_of(pairs, "aspect", store.samples["problem_id"].to_pylist())
    done = _evaluate_store(
        project,
        trained,
        stores,
        name,
        texts=texts,
        about={"data": data, "backbone": settings.models.policy.name},
        detailed=detailed,
        measure=lambda scored: measure_benchmark(scored, pairs, settings.evaluation, stream),
        decision=trained.record.decision,
        attributes={name: {"aspect": aspects}},
    )
    assert done.benchmark is not None
    if export is not None:
        model = f"critic/{to_name(settings.experiment.name)}"
        answers = read_answers(rows, done.head.splits[name].values_by_id())
        target = done.written.path.parent / name / "reward-bench"
        for path in write_reward_bench(target, model, pairs, answers, done.benchmark.scores):
            console().print(f"exported {path}")
    return done.head.evaluation, name, done.benchmark.numbers


class _Evaluated(NamedTuple):
    """An evaluation that was made, written and shown."""

    head: "EvaluatedHead"
    benchmark: "BenchmarkResults | None"
    written: "WrittenEvaluation"


def _evaluate_store(
    project: "Project",
    trained: "TrainedHead",
    stores: "Mapping[str, FeatureStore]",
    name: str,
    *,
    about: dict[str, str],
    detailed: bool,
    measure: "Callable[[ReadSplit], BenchmarkResults] | None" = None,
    **options: Any,
) -> _Evaluated:
    """Evaluate a head on one of the stores, write it with its report, and show it.

    Without `measure`, which gives a benchmark's own numbers, the store is one of a split.
    Options are those of `evaluate_head`.
    """
    from headtrain.evaluation.evaluate import evaluate_head
    from headtrain.evaluation.files import results_dir
    from headtrain.report.figures import CURVES
    from headtrain.report.page import write_with_report
    from headtrain.report.provenance import find_provenance
    from headtrain.report.sweep import find_sweep, read_layers

    settings, layout = project.settings, project.layout
    evaluated = evaluate_head(
        trained,
        stores,
        settings.evaluation,
        detailed=[name],
        seed=settings.runtime.seed,
        **options,
    )
    tracker, more = project.make_tracker(), dict[str, Any]()
    if measure is not None:
        more["benchmark"] = measure(evaluated.splits[name])
    else:
        more["history"] = tracker.history(trained.record.tracking_run_id, list(CURVES))
        more["sweep"] = read_layers(find_sweep(trained.path, layout.checkpoint_dir))
    written = write_with_report(
        results_dir(trained.path, layout.checkpoint_dir, layout.evaluation_dir),
        evaluated,
        name,
        trained,
        tracker,
        title=f"{settings.experiment.name} on {about.get('data', name)}",
        about={"head": trained.path, **about},
        num_mistakes=settings.evaluation.mistakes,
        provenance=find_provenance(trained, stores),
        **more,
    )
    _show_evaluation(evaluated.evaluation, name, detailed=detailed)
    benchmark = more.get("benchmark")
    for table in _benchmark_tables(benchmark, detailed=detailed) if benchmark else ():
        console().print(table)
    state = "written to" if written.is_new else f"{UP_TO_DATE}:"
    console().print(f"evaluation {state} {written.path}")
    console().print(f"report written to {written.report[0]}")
    return _Evaluated(evaluated, benchmark, written)


def _benchmark_tables(found: "BenchmarkResults", *, detailed: bool) -> list[Any]:
    """The benchmark's own numbers as tables."""
    from headtrain.report.benchmark import (
        SCORE_COLUMNS,
        SUBSET_COLUMNS,
        score_rows,
        style_rows,
        subset_rows,
    )

    tables = [columns_table("the head by subset", SUBSET_COLUMNS, subset_rows(found.subsets))]
    if found.styles is not None:
        tables.append(rows_table("the head by style", style_rows(found.styles)))
    if found.scores:
        rows = score_rows(found, detailed=detailed)
        tables.append(columns_table("the benchmark's own numbers", SCORE_COLUMNS, rows))
    return tables


def show(
    chosen: Chosen, problem: str | None = None, split: str = "valid", head: str | None = None
) -> None:
    """Show how a head ranks the outputs of one problem, the best one beside the worst."""
    from headtrain.evaluation.evaluate import read_split
    from headtrain.evaluation.problems import find_problem
    from headtrain.head.checkpoint import load_head
    from headtrain.report.ranking import programs_table, ranking_table, statement_lines

    project = chosen.project()
    trained = load_head(project.layout.checkpoint_dir if head is None else head)
    store = project.open_store(split)
    read = read_split(trained, store, project.open_texts(split, store))
    ids = store.samples["problem_id"].take(read.labelled.table_rows).to_pylist()
    found = find_problem(read, ids, project.find_decision(trained), problem)
    if problem is None:
        console().print(f"show: the problem with the median accuracy on {split}")
    for line in statement_lines(found):
        console().print(f"  {line}")
    console().print(ranking_table(found))
    console().print(programs_table(found))
    console().print(f"serve this head: critic serve --head {trained.path}")


def _find_inputs(
    project: "Project", head: str | None, split: str, baseline: str | None
) -> tuple[Path, dict[str, Any]] | None:
    """Find the file of an evaluation and all it depends on, without loading the head.

    None if something of it is missing or not on this machine; then it is computed.
    """
    from featurize.data.sources import find_sources
    from featurize.io.files import checksum
    from headtrain.evaluation.files import default_head, read_inputs, results_dir
    from headtrain.head.distance import DISTANCE_FILE

    settings, layout = project.settings, project.layout
    folder = None if head == "" else default_head(Path(head or layout.checkpoint_dir))
    stores = {str(name): layout.features_dir(name) for name in ("train", split)}
    if folder is None or any("://" in str(store) for store in stores.values()):
        return None
    try:
        paths = [settings.dataset.path_of(name) for name in stores]
        sources = [find_sources(path, layout.cache_dir / "index") for path in paths]
    except (ValueError, OSError):
        return None
    sweep = layout.checkpoint_dir / "sweep" / "sweep.json"
    distance = folder / DISTANCE_FILE
    inputs = read_inputs(
        folder,
        {name: Path(store) for name, store in stores.items()},
        settings=asdict(settings.evaluation),
        seed=settings.runtime.seed,
        names=[settings.experiment.name, settings.dataset.name, settings.models.policy.name],
        recipe=[
            settings.dataset.max_length,
            asdict(settings.featurize),
            *([asdict(settings.prompt)] if settings.prompt.identity else []),
        ],
        baseline=baseline,
        sources=[[source.path, *source.state] for found in sources for source in found],
        sweep=checksum(sweep) if sweep.exists() else None,
        **({"distance": checksum(distance)} if distance.exists() else {}),
    )
    if inputs is None:
        return None
    results = results_dir(str(folder), layout.checkpoint_dir, layout.evaluation_dir)
    return results / f"{split}.json", inputs


def _show_finished(
    inputs: tuple[Path, dict[str, Any]] | None, split: str, *, detailed: bool
) -> "Evaluation | None":
    """Show the evaluation that is there if nothing it depends on has changed."""
    from headtrain.evaluation.files import is_up_to_date, read_evaluation

    if inputs is None or not is_up_to_date(*inputs):
        return None
    path, _ = inputs
    evaluation = read_evaluation(path)
    _show_evaluation(evaluation, split, detailed=detailed)
    console().print(f"evaluation {UP_TO_DATE}: {path}")
    console().print(f"report in {path.with_suffix('.html')}")
    return evaluation


def _show_evaluation(evaluation: "Evaluation", split: str, *, detailed: bool) -> None:
    """The verdict and its warnings, then the tables; the rest only in detail."""
    from headtrain.report.tables import detail_lines, judges_table, values_table, verdict_lines

    for line in verdict_lines(evaluation, split):
        console().print(line)
    console().print(judges_table(evaluation, split, intervals=detailed))
    console().print(values_table(evaluation, split, intervals=detailed))
    if not detailed:
        console().print("--details shows intervals, subsets and best of n; the report shows all")
        return
    for line in detail_lines(evaluation, split):
        console().print(line)
