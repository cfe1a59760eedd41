"""`critic eval --data`: a head on a file of pairs that is no split of its dataset."""

import dataclasses
from pathlib import Path

from configs.project import make_tracker, open_texts, open_train_store_of, texts_of
from configs.terminal import columns_table, console, rows_table
from featurize.data.index import DatasetIndex
from featurize.data.pair_rows import write_plain_rows
from featurize.data.sources import SUFFIXES
from featurize.store import FeatureStore, FeatureStoreError
from headtrain.evaluation.benchmarks.styles import measure_styles
from headtrain.evaluation.benchmarks.subsets import measure_subsets
from headtrain.evaluation.benchmarks.tables import SUBSET_COLUMNS, style_rows, subset_rows
from headtrain.evaluation.judge import judge_head, to_metrics, write_evaluation
from headtrain.evaluation.place import results_dir, to_name
from headtrain.evaluation.samples.texts import TextSource
from headtrain.evaluation.tables import judges_table, summary_lines, values_table
from headtrain.report.write import write_report
from headtrain.scoring.external import HeadAtHand, featurize_file

TRAIN = "train"


def evaluate_file(at_hand: HeadAtHand, data: str, *, repair: bool = False) -> None:
    """Judges the head on the pairs of a file, prints the tables, and writes them and the report.

    Raises:
        ValueError: bad rows, a backbone that is not the head's, or no pair in the file.
    """
    head, settings, layout = at_hand.head, at_hand.settings, at_hand.layout
    rows = write_plain_rows(data, layout.cache_dir / "pairs")
    index = DatasetIndex.build(str(rows), layout.cache_dir / "index")
    store = featurize_file(at_hand, index, repair=repair)
    if store is None:  # another process goes on
        return
    name = data_name(data, index.content_fingerprint)
    stores, texts = {name: store}, {name: texts_of(index, store)}
    if (train := _open_train(at_hand)) is not None:
        stores = {TRAIN: train, **stores}
        texts[TRAIN] = _train_texts(at_hand, train)
    else:
        console().print("the train features are not at hand: no n-grams, no train column")
    judgement = judge_head(
        head,
        stores,
        settings.evaluation,
        texts=texts,
        closely=[name],
        seed=settings.runtime.seed,
        decision=head.record.decision,
    )
    evaluation, read = judgement.evaluation, judgement.splits[name]
    subsets = measure_subsets(read.scored, read.facts.attributes.get("source"))
    styles = measure_styles(read.scored, read.texts.task_ids.to_pylist())
    results = results_dir(head.path, layout.checkpoint_dir, layout.evaluation_dir)
    path = results / f"{name}.json"
    benchmark = {
        "subsets": dataclasses.asdict(subsets),
        "styles": dataclasses.asdict(styles) | {"average": styles.average} if styles else None,
    }
    is_new = write_evaluation(path, evaluation, head, benchmark=benchmark)
    report = write_report(
        results,
        judgement,
        name,
        title=f"{settings.experiment.name} on {data}",
        about={"head": head.path, "data": data, "backbone": settings.models.policy.name},
        num_mistakes=settings.evaluation.mistakes,
    )
    if is_new:
        metrics = to_metrics(evaluation, name)
        tracker = make_tracker(settings, layout)
        tracker.log_evaluation(head.record.tracking_run_id, metrics, [path, *report])
    console().print(judges_table(evaluation, name))
    console().print(values_table(evaluation, name))
    for line in summary_lines(evaluation, name):
        console().print(line)
    console().print(columns_table("the head by subset", SUBSET_COLUMNS, subset_rows(subsets)))
    if styles is not None:
        console().print(rows_table("the head by style", style_rows(styles)))
    console().print(f"evaluation {'written to' if is_new else 'up to date:'} {path}")
    console().print(f"report written to {report[0]}")


def data_name(data: str, fingerprint: str) -> str:
    """What reports call a file or glob: its name without the ending, and what tells it apart.

    Files of one name, or other content under it, do not replace each other's results.
    """
    name = Path(data).name
    stem = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
    return f"data-{to_name(stem) or 'file'}-{fingerprint[:6]}"


def _open_train(at_hand: HeadAtHand) -> FeatureStore | None:
    """What the head was trained on, where it is still there: it fits the n-grams."""
    try:
        return open_train_store_of(at_hand.head, at_hand.layout)
    except FeatureStoreError:
        return None


def _train_texts(at_hand: HeadAtHand, train: FeatureStore) -> TextSource:
    return open_texts(at_hand.settings, at_hand.layout, TRAIN, train)
