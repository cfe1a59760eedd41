"""The evaluation of a head: its numbers on every split, beside those of the shortcuts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from featurize.arrays import Floats, Strings
from featurize.store import FeatureStore
from headtrain.evaluation.details import SampleFacts, measure_details
from headtrain.evaluation.read import TRAIN, ReadSplit, read_splits
from headtrain.evaluation.results import Evaluation
from headtrain.evaluation.split import measure_split, train_minus
from headtrain.evaluation.texts import TextSource
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples
from headtrain.settings import EvaluationSettings


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
    `baselines` are the scores of other trained judges by split and name, [samples] of the store;
    they are evaluated beside the shortcuts. `attributes` are further facts of samples, by split and
    name as well; breakdowns use them. For `detailed` see `evaluate`.

    Raises:
        ValueError: a store has another recipe, or no problem with both labels.
    """
    splits = read_splits(
        head,
        stores,
        settings,
        texts=texts,
        seed=seed,
        baselines=baselines,
        attributes=attributes,
    )
    evaluation = evaluate(
        splits={name: split.scored for name, split in splits.items()},
        shortcuts={name: split.shortcuts for name, split in splits.items()},
        facts={name: split.facts for name, split in splits.items()},
        distances={
            name: split.distances for name, split in splits.items() if split.distances is not None
        },
        settings=settings,
        seed=seed,
        detailed=detailed,
        decision=None if TRAIN in splits else decision,
    )
    return EvaluatedHead(evaluation=evaluation, splits=splits)


def evaluate(
    *,
    splits: Mapping[str, ScoredSamples],
    shortcuts: Mapping[str, Mapping[str, Floats]],
    settings: EvaluationSettings,
    facts: Mapping[str, SampleFacts] | None = None,
    seed: int = 0,
    decision: Decision | None = None,
    detailed: Collection[str] | None = None,
    distances: Mapping[str, Floats] | None = None,
) -> Evaluation:
    """Evaluate the scores of a head, and of shortcuts on the same samples.

    splits are the head's scores by split; shortcuts are other judges' scores of the same samples,
    by split and name (see `shortcut_scores`); distances are how far the samples are from train, by
    split. The decision defaults to one fitted on the train split; without either, its numbers are
    left out. Each split has its own random stream, so
    differences of splits are independent, and a split's intervals do not depend on the others.
    `detailed` names the splits with details: by default all but train, or train if it is alone.

    Raises:
        EvaluationError: scores that are not finite, or a split without pairs.
    """
    if decision is None and TRAIN in splits:
        try:
            decision = Decision.fit(splits[TRAIN])
        except EvaluationError as error:
            raise EvaluationError(f"split {TRAIN!r}: {error}") from error
    measured = {
        name: measure_split(
            name,
            scored,
            shortcuts=shortcuts.get(name, {}),
            decision=decision,
            settings=settings,
            seed=seed,
            distances=(distances or {}).get(name),
        )
        for name, scored in splits.items()
    }
    if detailed is None:
        detailed = [name for name in splits if name != TRAIN] or list(splits)
    facts = facts or {}
    return Evaluation(
        splits={name: split.result for name, split in measured.items()},
        details={
            name: measure_details(measured[name], facts.get(name, SampleFacts()), decision, seed)
            for name in detailed
        },
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
