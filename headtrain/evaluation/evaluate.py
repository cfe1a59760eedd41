"""The whole judgement of a head: its metrics on every split, beside those of the shortcuts."""

from collections.abc import Collection, Mapping

from featurize.arrays import Floats
from headtrain.evaluation.details import Look
from headtrain.evaluation.results import Evaluation, TrainDifference
from headtrain.evaluation.samples.facts import SampleFacts
from headtrain.evaluation.split import HEAD, MeasuredSplit, measure_split
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples
from headtrain.settings import EvaluationSettings


def evaluate(
    *,
    splits: Mapping[str, ScoredSamples],
    shortcuts: Mapping[str, Mapping[str, Floats]],
    settings: EvaluationSettings,
    facts: Mapping[str, SampleFacts] | None = None,
    seed: int = 0,
    decision: Decision | None = None,
    closely: Collection[str] | None = None,
    train: str = "train",
) -> Evaluation:
    """Judge a head's scores on every split, and what they are worth beside trivial judges.

    splits are the head's scores by split; shortcuts are other judges' scores of the same rows, by
    split and name (see `shortcut_scores`); facts are what else is known of those rows. Calibration
    and F1 threshold are the given decision, or else fitted on the train split when it is among the
    splits; without either they are left out. Each split draws its resamples from its own stream,
    so differences of splits are independent and a split's intervals do not depend on which others
    are evaluated. The splits named in `closely` get details; by default all but train, or train
    where there is no other.
    """
    if decision is None and train in splits:
        try:
            decision = Decision.fit(splits[train])
        except EvaluationError as error:
            raise EvaluationError(f"split {train!r}: {error}") from error
    measured = {
        name: measure_split(
            name,
            scored,
            shortcuts=shortcuts.get(name, {}),
            decision=decision,
            settings=settings,
            seed=seed,
        )
        for name, scored in splits.items()
    }
    if closely is None:
        closely = [name for name in splits if name != train] or list(splits)
    facts = facts or {}
    return Evaluation(
        splits={name: split.result for name, split in measured.items()},
        details={
            name: Look(
                split=measured[name],
                facts=facts.get(name, SampleFacts()),
                settings=settings,
                seed=seed,
            ).details(decision)
            for name in closely
        },
        train_minus={
            name: _difference(measured[train], split, settings.confidence)
            for name, split in measured.items()
            if train in measured and name != train
        },
        decision=decision,
        bootstrap_rounds=settings.bootstrap_rounds,
        confidence=settings.confidence,
        seed=seed,
    )


def _difference(train: MeasuredSplit, other: MeasuredSplit, confidence: float) -> TrainDifference:
    # whoever has a train split has a decision, so the probabilities are there
    assert train.probability_gap is not None
    assert other.probability_gap is not None
    accuracy = train.accuracies[HEAD].minus(other.accuracies[HEAD]).result(confidence)
    probability_gap = train.probability_gap - other.probability_gap
    return TrainDifference(
        accuracy_over_pairs=accuracy.accuracy_over_pairs,
        accuracy_over_problems=accuracy.accuracy_over_problems,
        gap=(train.gap - other.gap).interval(confidence),
        probability_gap=probability_gap.interval(confidence),
    )
