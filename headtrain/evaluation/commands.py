"""The commands that judge: `critic eval`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from configs.command import (
    ConfigOption,
    DebugOption,
    SetOption,
    SplitOption,
    load_settings,
    reports_errors,
)
from configs.project import make_tracker, open_store, open_texts
from configs.terminal import console

TRACKED = (
    "train/accuracy",
    "valid/accuracy_over_pairs",
    "valid/accuracy_over_problems",
    "holdout/accuracy_over_problems",
)
"""Metrics of the training shown as curves."""


@reports_errors
def eval_command(
    split: SplitOption = "valid",
    head: Annotated[
        str | None,
        typer.Option(help="Folder or URI of a head", show_default="best, else final"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Pairs of another's making (a file or a glob) in place of a split"),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="random-backbone: also a head on an untrained backbone (a featurize)"),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="With --data: read stored features; redo damaged ones."),
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Judge a head on a split: accuracy, gaps, and what trivial judges get on the same pairs."""
    import os

    from featurize.run.launch import LAUNCHED
    from featurize.settings import to_split

    _refuse_unknown_baseline(baseline, data)
    if data is not None:
        _evaluate_file(data, head, config, overrides or [], repair=repair)
        return
    if repair:
        raise ValueError(
            "--repair is of --data; a split's features are repaired by `critic featurize --repair`"
        )
    settings, layout = load_settings(config, overrides)
    # NOTE: before the first import of matplotlib, which keeps a list of fonts there.
    os.environ.setdefault("MPLCONFIGDIR", str(layout.cache_dir / "matplotlib"))
    from headtrain.evaluation.judge import judge_head, to_metrics, write_evaluation
    from headtrain.evaluation.place import results_dir
    from headtrain.evaluation.tables import judges_table, summary_lines, values_table
    from headtrain.head.checkpoint import load_head
    from headtrain.report.sweep import find_sweep, read_sweep
    from headtrain.report.write import write_report

    split = to_split(split)
    trained = load_head(head or layout.checkpoint_dir)
    if not trained.record.is_finished and LAUNCHED not in os.environ:
        console().print(
            f"note: {trained.path} is the head of a run that has not ended, or of an older version;"
            " the same `critic train-head` again goes on with it"
        )
    stores = {str(name): open_store(settings, layout, name) for name in {"train": 0, split: 0}}
    baselines = None
    if baseline is not None:
        from headtrain.evaluation.random_backbone import score_with_random_backbone

        baselines = score_with_random_backbone(
            trained, stores, settings, layout, functools.partial(open_store, settings, layout)
        )
        if baselines is None:  # a process that was started to featurize, and has
            return
    judgement = judge_head(
        trained,
        stores,
        settings.evaluation,
        texts={name: open_texts(settings, layout, name, store) for name, store in stores.items()},
        closely=[split],
        seed=settings.runtime.seed,
        baselines=baselines,
    )
    evaluation = judgement.evaluation
    results = results_dir(trained.path, layout.checkpoint_dir, layout.evaluation_dir)
    path = results / f"{split}.json"
    is_new = write_evaluation(path, evaluation, trained)
    tracker = make_tracker(settings, layout)
    report = write_report(
        results,
        judgement,
        split,
        title=f"{settings.experiment.name} on {split}",
        about={
            "head": trained.path,
            "dataset": settings.dataset.name,
            "backbone": settings.models.policy.name,
            "step": str(trained.record.step),
        },
        num_mistakes=settings.evaluation.mistakes,
        history=tracker.history(trained.record.tracking_run_id, TRACKED),
        sweep=read_sweep(find_sweep(trained.path, layout.checkpoint_dir)),
    )
    if is_new:
        metrics = to_metrics(evaluation, split)
        tracker.log_evaluation(trained.record.tracking_run_id, metrics, [path, *report])
    console().print(judges_table(evaluation, split))
    console().print(values_table(evaluation, split))
    for line in summary_lines(evaluation, split):
        console().print(line)
    console().print(f"evaluation {'written to' if is_new else 'up to date:'} {path}")
    console().print(f"report written to {report[0]}")


def _refuse_unknown_baseline(baseline: str | None, data: str | None) -> None:
    """Raises ValueError; where there is one, this process follows the one that launched it."""
    if baseline is None:
        return
    if baseline != "random-backbone":
        raise ValueError(f"--baseline {baseline!r} is unknown; there is random-backbone")
    if data is not None:
        raise ValueError("--baseline is trained for splits; leave it or --data out")
    from featurize.run.launch import follow_launcher

    follow_launcher()  # first of all: what comes now takes seconds


def _evaluate_file(
    data: str, head: str | None, config: Path | None, overrides: list[str], *, repair: bool
) -> None:
    """`critic eval --data`, which featurizes what it judges."""
    import os

    from featurize.run.launch import follow_launcher

    follow_launcher()  # first of all: what comes now takes seconds

    from headtrain.scoring.external import find_head

    at_hand = find_head(head, config, overrides)
    # NOTE: before the first import of matplotlib, which keeps a list of fonts there.
    os.environ.setdefault("MPLCONFIGDIR", str(at_hand.layout.cache_dir / "matplotlib"))
    from headtrain.evaluation.benchmarks.command import evaluate_file

    evaluate_file(at_hand, data, repair=repair)


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

    from configs.project import open_store_of
    from featurize.io.files import write_json
    from featurize.settings import to_split
    from headtrain.evaluation.comparison.compare import FIRST, SECOND, compare
    from headtrain.evaluation.comparison.read import read_shared
    from headtrain.evaluation.comparison.tables import (
        comparison_lines,
        comparison_table,
        telling_text,
    )
    from headtrain.evaluation.place import head_name
    from headtrain.evaluation.samples.texts import SplitTexts
    from headtrain.head.checkpoint import load_head

    settings, layout = load_settings(config, overrides)
    split = to_split(split)
    heads = [load_head(first), load_head(second)]
    stores = [open_store_of(head, settings, layout, split) for head in heads]
    shared = read_shared(heads[0], stores[0], heads[1], stores[1])
    comparison = compare(
        shared.first,
        shared.second,
        settings.evaluation,
        seed=settings.runtime.seed,
        num_telling=settings.evaluation.mistakes,
    )
    for name, head in zip((FIRST, SECOND), heads, strict=True):
        console().print(f"{name}: {head.path}")
    console().print(comparison_table(comparison, split, settings.evaluation.confidence))
    for line in comparison_lines(comparison):
        console().print(line)
    if shared.num_left_out:
        console().print(f"samples that only one of the stores has: {shared.num_left_out:,}")
    texts = SplitTexts(
        task_ids=shared.task_ids, source=open_texts(settings, layout, split, stores[0])
    )
    if texts.are_there:
        for title, pairs in (
            (f"{FIRST} right, {SECOND} wrong", comparison.wins),
            (f"{SECOND} right, {FIRST} wrong", comparison.losses),
        ):
            for pair in pairs:
                correct, incorrect = texts.read(np.array([pair.correct, pair.incorrect]))
                console().print(telling_text(title, pair, correct, incorrect), soft_wrap=True)
    else:
        console().print(f"no code to show: {texts.source.why_not}")
    names = "+".join(head_name(head.path, layout.checkpoint_dir) for head in heads)
    path = layout.evaluation_dir / f"compare-{split}-{names}.json"
    heads_told = {name: head.path for name, head in zip((FIRST, SECOND), heads, strict=True)}
    write_json(path, {"heads_compared": heads_told, **comparison.to_dict()})
    console().print(f"comparison written to {path}")
