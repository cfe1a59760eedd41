"""Reads the input of an evaluation from a head and feature stores: scores, shortcuts, facts."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from featurize.arrays import Floats, Floats32, Strings
from featurize.data.authors import AuthorPrior
from featurize.store import FeatureStore
from featurize.store.samples import find_shared_ids
from headtrain.evaluation.details import AUTHOR_KNOWN, SampleFacts
from headtrain.evaluation.minimal_pairs import find_minimal_pairs
from headtrain.evaluation.shortcuts.ngrams import NAME as NGRAMS
from headtrain.evaluation.shortcuts.ngrams import NgramJudge
from headtrain.evaluation.shortcuts.trivial import shortcut_scores
from headtrain.evaluation.texts import SplitTexts, TextSource
from headtrain.features.inputs import kept_segments, num_segments_of
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.pairs.plan import TrainingData, read_training_data
from headtrain.settings import DataSamplingSettings, EvaluationSettings

TRAIN, HOLDOUT = "train", "train_holdout"
"""Train problems the head was trained on, and those held out of training."""

PREFIXES = (0.25, 0.5, 0.75, 1.0)
"""Shares of an output whose prefixes are scored, where a store has segments."""

ATTRIBUTES = ("difficulty", "language", "source")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadSplit:
    """A split with the scores of a head; every column is [labelled samples]."""

    labelled: LabelledSamples
    scored: ScoredSamples
    shortcuts: Mapping[str, Floats]
    facts: SampleFacts
    texts: SplitTexts
    distances: Floats | None = None
    """Share of train samples that are nearer to train; None for train, or if it was not kept."""

    def values_by_id(self) -> dict[str, float]:
        """The head's value of each sample by task id."""
        return dict(zip(self.texts.task_ids.to_pylist(), self.scored.scores.tolist(), strict=True))


def read_splits(
    head: TrainedHead,
    stores: Mapping[str, FeatureStore],
    settings: EvaluationSettings,
    *,
    texts: Mapping[str, TextSource] | None = None,
    seed: int = 0,
    baselines: Mapping[str, Mapping[str, Floats]] | None = None,
    attributes: Mapping[str, Mapping[str, Strings]] | None = None,
) -> dict[str, ReadSplit]:
    """Score the stores by split, and read what is known of their samples.

    `baselines` are the scores of other trained judges and `attributes` further facts, text or None,
    [samples] of the store each. Train problems held out of training become a split of their own,
    `train_holdout`.
    """
    splits: dict[str, ReadSplit] = {}
    sources, distance = texts or {}, head.read_distance()
    for name, store in stores.items():
        source = sources.get(name, TextSource())
        labelled = read_labelled_samples(store)
        values = np.asarray(head.score(store), np.float64)
        parts = {name: labelled}
        if name == TRAIN and head.record.holdout is not None:
            is_held = head.record.holdout.mask(store.samples["problem_id"])[labelled.table_rows]
            parts = {name: labelled.take(~is_held), HOLDOUT: labelled.take(is_held)}
        prefixes = _score_prefixes(head, store, values)
        for part, samples in parts.items():
            if len(samples):
                others = (baselines or {}).get(name, {})
                split = _read_split(store, samples, values, source, others)
                if distance is not None and part != TRAIN:
                    split = _with_distances(split, head.distances(store, distance))
                split = _with_attributes(split, (attributes or {}).get(name, {}))
                splits[part] = _with_prefixes(split, prefixes)
    return _with_texts(head, stores, _with_author_prior(splits), settings, seed)


def _score_prefixes(
    head: TrainedHead, store: FeatureStore, values: Floats
) -> dict[float, Floats] | str:
    """Score prefixes of all samples by their share of an output, or say why that cannot be.

    Empty if the store has no segments. `values` are those of whole outputs.
    """
    num_segments = num_segments_of(store)
    if not num_segments:
        return {}
    if (why := head.record.why_no_prefixes(store)) is not None:
        return why
    kept = kept_segments(PREFIXES, num_segments)[:-1]
    scores = {
        number / num_segments: np.asarray(head.score_prefixes(store, number), np.float64)
        for number in kept
    }
    return {**scores, 1.0: values}


def _with_distances(split: ReadSplit, found: Floats32) -> ReadSplit:
    """Add the distances to train, [samples of the store]."""
    own = found[split.labelled.table_rows].astype(np.float64)
    return dataclasses.replace(split, distances=own)


def _with_attributes(split: ReadSplit, found: Mapping[str, Strings]) -> ReadSplit:
    """Add attributes of the samples of the store, unless all are None."""
    rows = split.labelled.table_rows
    own = {name: values[rows] for name, values in found.items()}
    known = {name: values for name, values in own.items() if any(v is not None for v in values)}
    facts = dataclasses.replace(split.facts, attributes={**split.facts.attributes, **known})
    return dataclasses.replace(split, facts=facts)


def _with_prefixes(split: ReadSplit, prefixes: dict[float, Floats] | str) -> ReadSplit:
    """Add the scores of prefixes to a split, or why there are none."""
    facts = split.facts
    if isinstance(prefixes, str):
        facts = dataclasses.replace(facts, left_out={**facts.left_out, "prefixes": prefixes})
    else:
        rows = split.labelled.table_rows
        own = {share: scores[rows] for share, scores in prefixes.items()}
        facts = dataclasses.replace(facts, prefixes=own)
    return dataclasses.replace(split, facts=facts)


def read_split(head: TrainedHead, store: FeatureStore, source: TextSource) -> ReadSplit:
    """Score one store, without the shortcuts that need texts or the train split."""
    values = np.asarray(head.score(store), np.float64)
    return _read_split(store, read_labelled_samples(store), values, source, {})


def _with_author_prior(splits: Mapping[str, ReadSplit]) -> dict[str, ReadSplit]:
    """Add the shortcut that knows the author, if samples name theirs, or why it is left out."""
    authors = {name: split.facts.authors for name, split in splits.items()}
    train = splits.get(TRAIN)
    prior = None
    if train is not None and train.facts.authors is not None:
        scored = train.scored
        prior = AuthorPrior.fit(train.facts.authors.tolist(), scored.is_correct, scored.group)
    found = dict(splits)
    for name, split in splits.items():
        texts = authors[name]
        if texts is None:
            continue
        shortcuts, left_out = dict(split.shortcuts), dict(split.facts.left_out)
        if prior is None:
            left_out[AUTHOR_KNOWN] = "there is no train split with authors to learn from"
        else:
            shortcuts[AUTHOR_KNOWN] = prior.score(texts.tolist())
        facts = dataclasses.replace(split.facts, left_out=left_out)
        found[name] = dataclasses.replace(split, shortcuts=shortcuts, facts=facts)
    return found


def _read_split(
    store: FeatureStore,
    labelled: LabelledSamples,
    values: Floats,
    source: TextSource,
    others: Mapping[str, Floats],
) -> ReadSplit:
    table = store.samples.take(pa.array(labelled.table_rows))
    attributes = {
        name: np.array(table[name].to_pylist(), dtype=object)
        for name in ATTRIBUTES
        if table[name].null_count < table.num_rows
    }
    shared = find_shared_ids(table)
    return ReadSplit(
        labelled=labelled,
        scored=ScoredSamples(
            scores=values[labelled.table_rows],
            is_correct=labelled.is_correct,
            problem=labelled.problems,
            output_tokens=labelled.output_tokens,
            equal_pairs=labelled.equal_pairs,
        ),
        shortcuts=shortcut_scores(table)
        | {judge: scores[labelled.table_rows] for judge, scores in others.items()},
        # samples of one prompt and one output share their features
        facts=SampleFacts(
            attributes=attributes,
            outputs=labelled.feature_rows,
            authors=_read_authors(table),
            left_out={} if shared is None else {"pairs_of_two_statements": str(shared)},
        ),
        texts=SplitTexts(task_ids=table["task_id"], source=source),
    )


def _read_authors(table: pa.Table) -> Strings | None:
    if "author" not in table.column_names or table["author"].null_count == table.num_rows:
        return None
    return np.array(table["author"].to_pylist(), dtype=object)


def _with_texts(
    head: TrainedHead,
    stores: Mapping[str, FeatureStore],
    splits: dict[str, ReadSplit],
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, ReadSplit]:
    """Add what needs texts, the n-gram judge and the minimal pairs, or why they are left out."""
    judge: NgramJudge | str = "there is no train split to learn from"
    if TRAIN in splits:
        judge = _train_ngrams(head, stores[TRAIN], splits[TRAIN], settings, seed)
    found = {}
    for name, split in splits.items():
        shortcuts, left_out, minimal = dict(split.shortcuts), dict(split.facts.left_out), None
        why_not = _why_no_texts(split.texts, settings)
        if isinstance(judge, str) or why_not:
            left_out[NGRAMS] = why_not or str(judge)
        else:
            outputs = split.texts.read_outputs(np.arange(len(split.texts)))
            shortcuts[NGRAMS] = judge.score(outputs)
        if why_not:
            left_out["minimal_pairs"] = why_not
        elif name != TRAIN:
            minimal = find_minimal_pairs(
                split.scored,
                split.texts.read_outputs,
                largest_share=settings.minimal_edit,
                most_texts=settings.most_texts or 0,
                seed=seed,
            )
        facts = dataclasses.replace(split.facts, minimal_pairs=minimal, left_out=left_out)
        found[name] = dataclasses.replace(split, shortcuts=shortcuts, facts=facts)
    return found


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
