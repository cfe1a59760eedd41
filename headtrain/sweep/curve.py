"""The learning curve of a sweep's winner: what more problems, candidates or layers would bring."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from featurize.arrays import Floats, Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples
from headtrain.metrics.bootstrap import Interval, Resampled, resample_sums
from headtrain.metrics.pairwise import pairwise_counts
from headtrain.metrics.power_law import fit_power_laws
from headtrain.settings import EvaluationSettings
from headtrain.sweep.grid import SweepPoint
from headtrain.sweep.groups import Candidate, TrainedCandidate, train_candidates
from headtrain.sweep.inputs import (
    SweepReader,
    SweepSetup,
    take_candidates,
    take_problems,
    with_rows,
)
from headtrain.sweep.other_backbone import OtherBackbone, refuse_other_problems
from headtrain.sweep.result import mean_interval

MAX_LEVELS = 5
"""Sizes of a curve: the whole, and its halves."""

MIN_SEEDS = 3
"""Subsets drawn of each size, at least: one subset says little about its size."""

PROBLEMS, CANDIDATES = "problems", "candidates a problem"

Heads: TypeAlias = Sequence[TrainedCandidate]


@dataclass(frozen=True, kw_only=True)
class Level:
    """Heads trained on one size of subset."""

    size: float
    """Problems, or mean candidates of a problem."""
    accuracy: Interval
    """Over the problems of the half of valid that chooses nothing; mean of the seeds."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy against one kind of size, and what twice the largest size would bring."""

    axis: str
    levels: tuple[Level, ...]
    doubled: Interval | None
    """Accuracy expected at twice the largest size; None if no power law can be fitted."""
    gain: Interval | None
    """Difference of that to the law's accuracy at the largest size."""
    note: str | None
    """Why there is no extrapolation."""


@dataclass(frozen=True, kw_only=True)
class LayerGain:
    """What the best further layer adds."""

    tensor: str
    gain: Interval


@dataclass(frozen=True, kw_only=True)
class BackboneGain:
    """What another backbone adds."""

    name: str
    features: str
    """Fingerprints of its stores."""
    tensors: tuple[str, ...]
    """What the heads read of it; empty if they read all."""
    gain: Interval


@dataclass(frozen=True, kw_only=True)
class CurveResult:
    """Both curves, the gain of another layer, and a sentence."""

    point: str
    seeds: tuple[int, ...]
    curves: tuple[Curve, ...]
    layer: LayerGain | None
    """None if the store has no further layer of the poolings that the head reads."""
    larger_backbone: BackboneGain | None = None
    """None if no features of another backbone were given."""
    confidence: float
    verdict: str


def measure_curve(
    setup: SweepSetup,
    point: SweepPoint,
    *,
    other: OtherBackbone | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CurveResult:
    """Train the point on nested subsets of its train samples, and extrapolate.

    With `other` the point is also trained on the whole features of another backbone. A seed
    determines the subset and the head. One half of valid chooses the best step (and the further
    layer), the other measures. `progress` gets the sizes done and their number.

    Raises:
        CriticError: every head of a size diverged, or stores that cannot be used.
    """
    memory, evaluation = setup.memory(point), setup.evaluation
    samples = SweepReader(setup, memory).data(point).samples
    whole = _only(setup, samples.table_rows)
    subsets = _plan_subsets(samples)
    layers = {name: _with_tensor(point, name) for name in _further_tensors(setup.train, point)}
    tasks: dict[Any, Callable[[], Heads]] = {
        "whole": lambda: _train(whole, point, memory),
        **{subset: partial(_train_on, setup, subset, point, memory) for subset in subsets},
        **{name: partial(_train, whole, with_it, memory) for name, with_it in layers.items()},
    }
    if other is not None:
        tasks["backbone"] = partial(_train_other, setup, other, point, memory)
    found = {}
    for number, (name, train) in enumerate(tasks.items(), 1):
        found[name] = train()
        if progress is not None:
            progress(number, len(tasks))
    base, num_problems = _mean_accuracy(found["whole"]), len(np.unique(samples.problems))
    wholes = {PROBLEMS: num_problems, CANDIDATES: len(samples) / num_problems}
    curves = [
        extrapolate(
            axis,
            [
                *((one.size, _mean_accuracy(found[one])) for one in subsets if one.axis == axis),
                (float(size), base),
            ],
            evaluation,
        )
        for axis, size in wholes.items()
    ]
    layer = _best_layer({name: found[name] for name in layers}, base, evaluation)
    backbone = None
    if other is not None:
        backbone = _backbone_gain(other, found["backbone"], found["whole"], evaluation)
    return CurveResult(
        point=point.name,
        seeds=tuple(setup.seeds),
        curves=tuple(curves),
        layer=layer,
        larger_backbone=backbone,
        confidence=evaluation.confidence,
        verdict=say_what_to_buy({curve.axis: curve.gain for curve in curves}, layer, backbone),
    )


def halves(most: int) -> list[int]:
    """Return at most MAX_LEVELS sizes from 2 to `most`, each about half of the next."""
    sizes = [most]
    while len(sizes) < MAX_LEVELS and sizes[-1] // 2 >= 2:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]


def extrapolate(
    axis: str, levels: Sequence[tuple[float, Floats]], evaluation: EvaluationSettings
) -> Curve:
    """Fit the law to sizes with the accuracy of each problem, [problems], and to resamples."""
    sizes = np.array([size for size, _ in levels])
    observed, rounds = _resampled(np.stack([accuracy for _, accuracy in levels], 1), evaluation)

    def interval(estimates: Floats, replicates: Floats) -> Interval:
        resampled = Resampled(estimate=float(estimates[0]), replicates=replicates)
        return resampled.interval(evaluation.confidence)

    measured = tuple(
        Level(size=float(size), accuracy=interval(observed[:, place], rounds[:, place]))
        for place, size in enumerate(sizes)
    )
    doubled = gain = note = None
    if len(np.unique(sizes)) < 3:
        note = f"{len(np.unique(sizes))} sizes are too few for a power law, which needs 3"
    else:
        law, laws = fit_power_laws(sizes, observed), fit_power_laws(sizes, rounds)
        if law.scale[0] <= 0:
            note = "the accuracy does not rise with the size, so no power law can be fitted"
        else:
            last, twice = float(sizes[-1]), 2 * float(sizes[-1])
            doubled = interval(law.predict(twice), laws.predict(twice))
            gain = interval(
                law.predict(twice) - law.predict(last), laws.predict(twice) - laws.predict(last)
            )
    return Curve(axis=axis, levels=measured, doubled=doubled, gain=gain, note=note)


def say_what_to_buy(
    gains: Mapping[str, Interval | None],
    layer: LayerGain | None,
    backbone: BackboneGain | None = None,
) -> str:
    """Say which of the measured gains is the largest, and whether it is clearly above 0."""
    named = {f"twice the {axis}": gain for axis, gain in gains.items() if gain is not None}
    if layer is not None:
        named[f"another layer ({layer.tensor})"] = layer.gain
    unmeasured = "; a larger backbone: not measured"
    if backbone is not None:
        named[f"another backbone ({backbone.name})"] = backbone.gain
        unmeasured = ""
    rising = {name: gain for name, gain in named.items() if gain.estimate > 0}
    if not rising:
        return f"Nothing that was measured raises the accuracy{unmeasured}."
    best = max(rising, key=lambda name: rising[name].estimate)
    low = rising[best].low
    doubt = "" if low is not None and round(low, 3) > 0 else ", but its interval reaches 0"
    listed = "; ".join(f"{name} {_signed(gain)}" for name, gain in named.items())
    return f"The largest gain is {best}{doubt} ({listed}{unmeasured})."


@dataclass(frozen=True, kw_only=True, eq=False)
class _Subset:
    """A part of the train samples, another one with each seed."""

    axis: str
    size: float
    rows: Callable[[int], Ints]
    """Table rows by seed."""


def _plan_subsets(samples: LabelledSamples) -> list[_Subset]:
    """List the subsets that are smaller than the whole, by problems and by candidates."""
    num_problems = len(np.unique(samples.problems))
    by_problems = [
        _Subset(axis=PROBLEMS, size=float(size), rows=partial(take_problems, samples, size))
        for size in halves(num_problems)[:-1]
    ]
    by_candidates = []
    for most in halves(int(np.bincount(samples.problems).max()))[:-1]:
        rows = partial(take_candidates, samples, most)
        # a problem may have fewer candidates than `most`, so the size is the mean
        by_candidates.append(_Subset(axis=CANDIDATES, size=len(rows(0)) / num_problems, rows=rows))
    return by_problems + by_candidates


def _only(setup: SweepSetup, table_rows: Ints) -> SweepSetup:
    """The setup with these train rows alone, none of them held out."""
    return dataclasses.replace(
        setup,
        train=with_rows(setup.train, table_rows),
        evaluation=dataclasses.replace(setup.evaluation, train_holdout=0.0),
    )


def _train(setup: SweepSetup, point: SweepPoint, memory: FeatureMemory) -> Heads:
    candidates = [Candidate(point=point, seed=seed) for seed in setup.seeds]
    return list(train_candidates(candidates, SweepReader(setup, memory)))


def _train_on(
    setup: SweepSetup, subset: _Subset, point: SweepPoint, memory: FeatureMemory
) -> Heads:
    parts = ((_only(setup, subset.rows(seed)), seed) for seed in setup.seeds)
    return [
        head
        for part, seed in parts
        for head in _train(dataclasses.replace(part, seeds=[seed]), point, memory)
    ]


def _train_other(
    setup: SweepSetup, other: OtherBackbone, point: SweepPoint, memory: FeatureMemory
) -> Heads:
    """Train on the features that another backbone has of the same samples."""
    theirs = dataclasses.replace(setup, train=other.train, valid=other.valid)
    translated = other.translate(point, setup.train)
    rows = SweepReader(theirs, memory).data(translated).samples.table_rows
    return _train(_only(theirs, rows), translated, memory)


def _further_tensors(store: FeatureStore, point: SweepPoint) -> list[str]:
    """Tensors that the point does not read, of a pooling and width that it reads."""
    read = point.training.features
    if read is None:
        return []
    widths = store.manifest.tensors
    kinds = {(name.partition(".")[0], widths[name]) for name in read if name in widths}
    return [
        name
        for name, width in widths.items()
        if name not in read and (name.partition(".")[0], width) in kinds
    ]


def _with_tensor(point: SweepPoint, tensor: str) -> SweepPoint:
    features = [*(point.training.features or ()), tensor]
    return dataclasses.replace(
        point, training=dataclasses.replace(point.training, features=features)
    )


def _best_layer(
    added: Mapping[str, Heads], base: Floats, evaluation: EvaluationSettings
) -> LayerGain | None:
    """Choose the tensor on the choosing half, and measure its gain on the other."""
    if not added:
        return None

    def chosen_by(tensor: str) -> float:
        scores = [head.choose for head in added[tensor] if head.choose is not None]
        return (
            float(np.mean([pairwise_counts(one).shares.mean() for one in scores]))
            if scores
            else -1.0
        )

    tensor = max(added, key=chosen_by)
    gain = mean_interval(_mean_accuracy(added[tensor]) - base, evaluation)
    return LayerGain(tensor=tensor, gain=gain)


def _backbone_gain(
    other: OtherBackbone, heads: Heads, base: Heads, evaluation: EvaluationSettings
) -> BackboneGain:
    """Measure the gain of heads on another backbone over heads on this one."""
    accuracy, base_accuracy = _mean_accuracy(heads), _mean_accuracy(base)  # or all diverged
    refuse_other_problems(_problems(heads), _problems(base), str(other.valid.path))
    return BackboneGain(
        name=other.name,
        features=other.fingerprints,
        tensors=tuple(heads[0].candidate.point.training.features or ()),
        gain=mean_interval(accuracy - base_accuracy, evaluation),
    )


def _problems(heads: Heads) -> Ints:
    """Codes of the reporting half's problems with pairs."""
    scored = next(head.report for head in heads if head.report is not None)
    return pairwise_counts(scored).problem


def _resampled(per_problem: Floats, evaluation: EvaluationSettings) -> tuple[Floats, Floats]:
    """Mean of columns [problems, k] over the problems, [1, k], and over resamples, [rounds, k]."""
    # NOTE: one seed, so that all curves are resampled by the same problems.
    sums = resample_sums(per_problem, rounds=evaluation.bootstrap_rounds, seed=0)
    return sums.observed / len(per_problem), sums.rounds / len(per_problem)


def _mean_accuracy(heads: Heads) -> Floats:
    """Accuracy of each problem of the reporting half, mean over the heads, [problems]."""
    scores = [head.report for head in heads if head.report is not None]
    if not scores:
        raise CriticError(
            "every head of one size of the curve diverged; lower training.value_head_learning_rate"
        )
    return np.asarray(np.mean([pairwise_counts(one).shares for one in scores], axis=0))


def _signed(gain: Interval) -> str:
    if gain.low is None or gain.high is None:
        return f"{gain.estimate:+.3f}"
    return f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
