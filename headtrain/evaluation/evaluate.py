"""The evaluation of a head: its numbers on every split, beside those of the shortcuts."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from featurize.arrays import Floats, Strings
from featurize.data.authors import AuthorPrior
from featurize.store import FeatureStore
from featurize.store.samples import find_shared_ids
from headtrain.evaluation.breakdowns import find_minimal_pairs
from headtrain.evaluation.details import measure_details
from headtrain.evaluation.results import Evaluation
from headtrain.evaluation.shortcuts import AUTHOR_KNOWN, NGRAMS, NgramJudge, shortcut_scores
from headtrain.evaluation.split import SplitSamples, measure_split, train_minus
from headtrain.evaluation.texts import SplitTexts, TextSource
from headtrain.features.inputs import kept_segments, num_segments_of
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairs import Pairs
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples
from headtrain.pairs.plan import TrainingData, read_training_data
from headtrain.settings import DataSamplingSettings, EvaluationSettings

TRAIN, HOLDOUT = "train", "train_holdout"
"""Train problems the head was trained on, and those held out of training."""

PREFIXES = (0.25, 0.5, 0.75, 1.0)
"""Shares of an output whose prefixes are scored, where a store has segments."""

ATTRIBUTES = ("difficulty", "language", "source")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadSplit(SplitSamples):
    """The samples of a split with where they come from."""

    labelled: LabelledSamples
    texts: SplitTexts

    def values_by_id(self) -> dict[str, float]:
        """The head's value of each sample by task id."""
        return dict(zip(self.texts.task_ids.to_pylist(), self.scored.scores.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class EvaluatedHead:
    """An evaluation with the samples it was made from."""

    evaluation: Evaluation
    splits: Mapping[str, ReadSplit]


def evaluate_head(
    head: TrainedHead,
    stores: Mapping[str, FeatureStore],
    settings: EvaluationSettings,
    *,
    texts: Mapping[str, TextSource] | None = None,
    detailed: Collection[str] | None = None,
    seed: int = 0,
    decision: Decision | None = None,
    baselines: Mapping[str, Mapping[str, Floats]] | None = None,
    attributes: Mapping[str, Mapping[str, Strings]] | None = None,
) -> EvaluatedHead:
    """Evaluate a head on feature stores by split.

    Calibration and threshold are fitted on the split `train`; without it, `decision` is used.
    Train problems held out of training become a split of their own, `train_holdout`. `baselines`
    are the scores of other trained judges by split and name, [samples] of the store; they are
    evaluated beside the shortcuts. `attributes` are further facts of samples, text or None, by
    split and name as well; breakdowns use them. For `detailed` see `evaluate`.

    Raises:
        ValueError: a store has another recipe, or no problem with both labels.
    """
    sources = texts or {}
    splits: dict[str, ReadSplit] = {}
    for name, store in stores.items():
        splits |= _read_store(
            head,
            name,
            store,
            sources.get(name, TextSource()),
            (baselines or {}).get(name, {}),
            (attributes or {}).get(name, {}),
        )
    splits = _with_learnt_judges(head, stores.get(TRAIN), splits, settings, seed)
    evaluation = evaluate(
        splits,
        settings,
        seed=seed,
        detailed=detailed,
        decision=None if TRAIN in splits else decision,
    )
    return EvaluatedHead(evaluation=evaluation, splits=splits)


def evaluate(
    splits: Mapping[str, SplitSamples],
    settings: EvaluationSettings,
    *,
    seed: int = 0,
    decision: Decision | None = None,
    detailed: Collection[str] | None = None,
) -> Evaluation:
    """Evaluate the scores of a head, and of shortcuts on the same samples.

    The decision defaults to one fitted on the train split; without either, its numbers are left
    out. Each split has its own random stream, so differences of splits are independent, and a
    split's intervals do not depend on the others. `detailed` names the splits with details: by
    default all but train, or train if it is alone.

    Raises:
        EvaluationError: scores that are not finite, or a split without pairs.
    """
    if decision is None and TRAIN in splits:
        try:
            decision = Decision.fit(splits[TRAIN].scored)
        except EvaluationError as error:
            raise EvaluationError(f"split {TRAIN!r}: {error}") from error
    measured = {
        name: measure_split(name, samples, decision, settings, seed)
        for name, samples in splits.items()
    }
    if detailed is None:
        detailed = [name for name in splits if name != TRAIN] or list(splits)
    return Evaluation(
        splits={name: split.result for name, split in measured.items()},
        details={name: measure_details(measured[name], seed) for name in detailed},
        train_minus={
            name: train_minus(measured[TRAIN], split)
            for name, split in measured.items()
            if TRAIN in measured and name != TRAIN
        },
        decision=decision,
        bootstrap_rounds=settings.bootstrap_rounds,
        confidence=settings.confidence,
        seed=seed,
    )


def read_split(
    head: TrainedHead,
    store: FeatureStore,
    source: TextSource,
    labelled: LabelledSamples | None = None,
    values: Floats | None = None,
) -> ReadSplit:
    """Score one store, without what needs texts, segments or the train split.

    `labelled` are the samples to read (default: all), `values` their scores if they are known,
    [samples] of the store.
    """
    labelled = read_labelled_samples(store) if labelled is None else labelled
    values = np.asarray(head.score(store), np.float64) if values is None else values
    table = store.samples.take(pa.array(labelled.table_rows))
    shared = find_shared_ids(table)
    known = {name for name in (*ATTRIBUTES, "author") if name in table.column_names}
    columns = {
        name: np.array(table[name].to_pylist(), dtype=object)
        for name in known
        if table[name].null_count < table.num_rows
    }
    return ReadSplit(
        labelled=labelled,
        scored=ScoredSamples(
            scores=values[labelled.table_rows],
            is_correct=labelled.is_correct,
            problem=labelled.problems,
            output_tokens=labelled.output_tokens,
            equal_pairs=labelled.equal_pairs,
        ),
        shortcuts=shortcut_scores(table),
        attributes={name: columns[name] for name in ATTRIBUTES if name in columns},
        authors=columns.get("author"),
        outputs=labelled.feature_rows,  # samples of one prompt and one output share their features
        left_out={} if shared is None else {"pairs_of_two_statements": str(shared)},
        texts=SplitTexts(task_ids=table["task_id"], source=source),
    )


def _read_store(
    head: TrainedHead,
    name: str,
    store: FeatureStore,
    source: TextSource,
    baselines: Mapping[str, Floats],
    attributes: Mapping[str, Strings],
) -> dict[str, ReadSplit]:
    """Read the samples of a store with all it can be asked, those held out of training apart."""
    values, distance = np.asarray(head.score(store), np.float64), head.read_distance()
    prefixes, why_not = _score_prefixes(head, store, values)
    found = {}
    for part, labelled in _parts(head, name, store).items():
        split, rows = read_split(head, store, source, labelled, values), labelled.table_rows
        own = {attribute: column[rows] for attribute, column in attributes.items()}
        known = {key: column for key, column in own.items() if any(x is not None for x in column)}
        distances = None
        if distance is not None and part != TRAIN:
            distances = head.distances(store, distance)[rows].astype(np.float64)
        found[part] = replace(
            split,
            shortcuts={**split.shortcuts, **{judge: one[rows] for judge, one in baselines.items()}},
            attributes={**split.attributes, **known},
            distances=distances,
            prefixes={share: one[rows] for share, one in prefixes.items()},
            left_out={**split.left_out, **why_not},
        )
    return found


def _parts(head: TrainedHead, name: str, store: FeatureStore) -> dict[str, LabelledSamples]:
    """The labelled samples of a store by the name of their split, without empty ones."""
    whole, holdout = read_labelled_samples(store), head.record.holdout
    parts = {name: whole}
    if name == TRAIN and holdout is not None:
        is_held = holdout.mask(store.samples["problem_id"])[whole.table_rows]
        parts = {name: whole.take(~is_held), HOLDOUT: whole.take(is_held)}
    return {part: labelled for part, labelled in parts.items() if len(labelled)}


def _score_prefixes(
    head: TrainedHead, store: FeatureStore, values: Floats
) -> tuple[dict[float, Floats], dict[str, str]]:
    """Score prefixes of all samples by their share of an output, and say why that cannot be.

    Both are empty if the store has no segments. `values` are those of whole outputs.
    """
    num_segments = num_segments_of(store)
    if not num_segments:
        return {}, {}
    if (why := head.record.why_no_prefixes(store)) is not None:
        return {}, {"prefixes": why}
    kept = kept_segments(PREFIXES, num_segments)[:-1]
    scores = {
        number / num_segments: np.asarray(head.score_prefixes(store, number), np.float64)
        for number in kept
    }
    return {**scores, 1.0: values}, {}


def _with_learnt_judges(
    head: TrainedHead,
    store: FeatureStore | None,
    splits: Mapping[str, ReadSplit],
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, ReadSplit]:
    """Add the judges that learn from train, and minimal pairs, or why they are left out."""
    train, found = splits.get(TRAIN), {}
    prior = None if train is None else _fit_authors(train)
    judge: NgramJudge | str = "there is no train split to learn from"
    if train is not None and store is not None:
        judge = _train_ngrams(head, store, train, settings, seed)
    for name, split in splits.items():
        shortcuts, left_out = dict(split.shortcuts), dict(split.left_out)
        if split.authors is not None and prior is None:
            left_out[AUTHOR_KNOWN] = "there is no train split with authors to learn from"
        elif split.authors is not None and prior is not None:
            shortcuts[AUTHOR_KNOWN] = prior.score(split.authors.tolist())
        why_not = _why_no_texts(split.texts, settings)
        if isinstance(judge, str) or why_not:
            left_out[NGRAMS] = why_not or str(judge)
        else:
            outputs = split.texts.read_outputs(np.arange(len(split.texts)))
            shortcuts[NGRAMS] = judge.score(outputs)
        if why_not:
            left_out["minimal_pairs"] = why_not
        is_searched = not why_not and name != TRAIN
        minimal = _find_minimal_pairs(split, settings, seed) if is_searched else None
        found[name] = replace(split, shortcuts=shortcuts, minimal_pairs=minimal, left_out=left_out)
    return found


def _find_minimal_pairs(split: ReadSplit, settings: EvaluationSettings, seed: int) -> Pairs:
    return find_minimal_pairs(
        split.scored,
        split.texts.read_outputs,
        largest_share=settings.minimal_edit,
        most_texts=settings.most_texts or 0,
        seed=seed,
    )


def _fit_authors(train: ReadSplit) -> AuthorPrior | None:
    """Learn how often each author is right on train; None if no sample names its author."""
    if train.authors is None:
        return None
    scored = train.scored
    return AuthorPrior.fit(train.authors.tolist(), scored.is_correct, scored.group)


def _why_no_texts(texts: SplitTexts, settings: EvaluationSettings) -> str:
    """Why the texts of a split may not be read; empty if they may."""
    if settings.most_texts is None:
        return "evaluation.most_texts is null"
    if not texts.are_there:
        return f"its texts cannot be read: {texts.source.why_not}"
    if len(texts) > settings.most_texts:
        return f"{len(texts):,} texts are more than evaluation.most_texts {settings.most_texts:,}"
    return ""


def _train_ngrams(
    head: TrainedHead,
    store: FeatureStore,
    train: ReadSplit,
    settings: EvaluationSettings,
    seed: int,
) -> NgramJudge | str:
    """Train the n-gram judge on the head's own pairs, or say why it cannot be."""
    if settings.most_texts is None or not train.texts.are_there:
        return _why_no_texts(train.texts, settings)
    try:
        data = _training_pairs(head, store)
    except (OSError, ValueError) as error:
        return f"the pairs of the head cannot be drawn again: {str(error).splitlines()[0]}"
    # the pairs are in random order, so the first ones are a fair sample
    most = settings.most_texts // 2
    correct, incorrect = data.plan.correct[:most], data.plan.incorrect[:most]
    places, code = np.unique(np.concatenate([correct, incorrect]), return_inverse=True)
    task_ids = store.samples["task_id"].take(pa.array(data.samples.table_rows[places]))
    texts = SplitTexts(task_ids=task_ids, source=train.texts.source)
    outputs = texts.read_outputs(np.arange(len(places)))
    first, second = np.split(code.astype(np.int64), 2)
    return NgramJudge.train(outputs, first, second, data.samples.problems[correct], seed=seed)


def _training_pairs(head: TrainedHead, store: FeatureStore) -> TrainingData:
    """Draw the pairs the head was trained on again, from its own settings."""
    record = head.record
    sampling = TypeAdapter(DataSamplingSettings).validate_python(record.config["data_sampling"])
    data = read_training_data(
        store,
        sampling,
        train_holdout=record.holdout.share if record.holdout else 0.0,
    )
    if record.pairs.get("checksum", data.checksum()) != data.checksum():
        logger.warning("%s: the n-grams are trained on other pairs than the head", store.path)
    return data
