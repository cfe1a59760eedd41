"""The learning curve of a sweep's winner: what more problems, candidates or layers would bring."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featurize.arrays import Floats, Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples
from headtrain.metrics.bootstrap import Interval, Resampled, resample_sums
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts
from headtrain.metrics.power_law import fit_power_laws
from headtrain.settings import EvaluationSettings
from headtrain.sweep.grid import SweepPoint
from headtrain.sweep.groups import Candidate, TrainedCandidate, train_candidates
from headtrain.sweep.inputs import SweepReader
from headtrain.sweep.other_backbone import BackboneGain, OtherBackbone, refuse_other_problems
from headtrain.sweep.subsets import take_candidates, take_problems, with_rows

CURVE_FILE, CURVE_FIGURE = "curve.json", "curve.png"

MAX_LEVELS = 5
"""Sizes of a curve: the whole, and its halves."""

MIN_SEEDS = 3
"""Subsets drawn of each size, at least: one subset says little about its size."""

PROBLEMS, CANDIDATES = "problems", "candidates a problem"


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
    *,
    train: FeatureStore,
    valid: FeatureStore,
    point: SweepPoint,
    seeds: Sequence[int],
    evaluation: EvaluationSettings,
    save_checkpoint_every: float | None,
    device: torch.device,
    mixed_precision: bool,
    cache_dir: Path,
    other: OtherBackbone | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CurveResult:
    """Train the point on nested subsets of its train samples, and extrapolate.

    With `other` the point is also trained on the whole features of another backbone. A seed
    determines the subset and the head. One half of valid chooses the best step (and the further
    layer), the other measures.

    Raises:
        CriticError: every head of a size diverged, or stores that cannot be used.
    """
    if other is not None:
        other.check(train, valid)
    memory = FeatureMemory(
        device=device, folder=cache_dir, most_gb=point.training.max_feature_memory_gb
    )
    options = {
        "save_checkpoint_every": save_checkpoint_every,
        "mixed_precision": mixed_precision,
    }
    heads = _Heads(valid=valid, options=options, device=device, memory=memory)
    samples = heads.samples_of(train, point, evaluation)
    everything = with_rows(train, samples.table_rows)
    subsets, others = _plan_subsets(samples), _further_tensors(train, point)
    total = 1 + len(subsets) + len(others) + (other is not None)
    count = _Counter(total=total, progress=progress)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        base_heads = count.done(heads.train(everything, point, seeds))
        base = _mean_accuracy(base_heads)
        levels = {
            axis: [
                (
                    subset.size,
                    _mean_accuracy(count.done(heads.train_on(train, subset, point, seeds))),
                )
                for subset in subsets
                if subset.axis == axis
            ]
            for axis in (PROBLEMS, CANDIDATES)
        }
        added = {
            tensor: count.done(heads.train(everything, _with_tensor(point, tensor), seeds))
            for tensor in others
        }
        backbone = None
        if other is not None:
            theirs = dataclasses.replace(heads, valid=other.valid)
            translated = other.translate(point, train)
            rows = theirs.samples_of(other.train, translated, evaluation).table_rows
            found = count.done(theirs.train(with_rows(other.train, rows), translated, seeds))
            backbone = _backbone_gain(other, translated, found, base_heads, evaluation)
    num_problems = len(np.unique(samples.problems))
    levels[PROBLEMS].append((float(num_problems), base))
    levels[CANDIDATES].append((len(samples) / num_problems, base))
    curves = tuple(extrapolate(axis, sizes, evaluation) for axis, sizes in levels.items())
    layer = _best_layer(added, base, evaluation)
    return CurveResult(
        point=point.name,
        seeds=tuple(seeds),
        curves=curves,
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
    return f"The likelier gain is {best}{doubt} ({listed}{unmeasured})."


@dataclass(frozen=True, kw_only=True)
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


@dataclass(kw_only=True)
class _Counter:
    """Tells how many sizes are trained."""

    total: int
    progress: Callable[[int, int], None] | None
    num_done: int = 0

    def done(self, heads: list[TrainedCandidate]) -> list[TrainedCandidate]:
        self.num_done += 1
        if self.progress is not None:
            self.progress(self.num_done, self.total)
        return heads


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """Trains heads of one point on a store."""

    valid: FeatureStore
    options: Mapping[str, Any]
    device: torch.device
    memory: FeatureMemory

    def samples_of(
        self, store: FeatureStore, point: SweepPoint, evaluation: EvaluationSettings
    ) -> LabelledSamples:
        """The train samples of the point's pairs."""
        reader = SweepReader(
            store,
            self.valid,
            train_holdout=evaluation.train_holdout,
            device=self.device,
            memory=self.memory,
        )
        return reader.data(point).samples

    def train(
        self, store: FeatureStore, point: SweepPoint, seeds: Sequence[int]
    ) -> list[TrainedCandidate]:
        reader = SweepReader(
            store, self.valid, train_holdout=0.0, device=self.device, memory=self.memory
        )
        candidates = [Candidate(point=point, seed=seed) for seed in seeds]
        return list(train_candidates(candidates, reader, **self.options))

    def train_on(
        self, store: FeatureStore, subset: _Subset, point: SweepPoint, seeds: Sequence[int]
    ) -> list[TrainedCandidate]:
        parts = ((with_rows(store, subset.rows(seed)), seed) for seed in seeds)
        return [head for part, seed in parts for head in self.train(part, point, [seed])]


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
    added: Mapping[str, Sequence[TrainedCandidate]], base: Floats, evaluation: EvaluationSettings
) -> LayerGain | None:
    """Choose the tensor on the choosing half, and measure its gain on the other."""
    if not added:
        return None

    def chosen_by(tensor: str) -> float:
        scores = [head.choose for head in added[tensor] if head.choose is not None]
        return float(np.mean([_accuracy(one).mean() for one in scores])) if scores else -1.0

    tensor = max(added, key=chosen_by)
    gain = _mean_interval(_mean_accuracy(added[tensor]) - base, evaluation)
    return LayerGain(tensor=tensor, gain=gain)


def _backbone_gain(
    other: OtherBackbone,
    point: SweepPoint,
    heads: Sequence[TrainedCandidate],
    base: Sequence[TrainedCandidate],
    evaluation: EvaluationSettings,
) -> BackboneGain:
    """Measure the gain of heads on another backbone over heads on this one."""
    accuracy, base_accuracy = _mean_accuracy(heads), _mean_accuracy(base)
    refuse_other_problems(_problems(heads), _problems(base), str(other.valid.path))
    return BackboneGain(
        name=other.name,
        features=other.fingerprints,
        tensors=tuple(point.training.features or ()),
        gain=_mean_interval(accuracy - base_accuracy, evaluation),
    )


def _problems(heads: Sequence[TrainedCandidate]) -> Ints:
    """Codes of the reporting half's problems with pairs."""
    scored = next(head.report for head in heads if head.report is not None)
    return pairwise_counts(scored).problem


def _mean_interval(per_problem: Floats, evaluation: EvaluationSettings) -> Interval:
    """The mean over the problems with its interval."""
    observed, rounds = _resampled(per_problem[:, None], evaluation)
    resampled = Resampled(estimate=float(observed[0, 0]), replicates=rounds[:, 0])
    return resampled.interval(evaluation.confidence)


def _resampled(per_problem: Floats, evaluation: EvaluationSettings) -> tuple[Floats, Floats]:
    """Mean of columns [problems, k] over the problems, [1, k], and over resamples, [rounds, k]."""
    # NOTE: one seed, so that all curves are resampled by the same problems.
    sums = resample_sums(per_problem, rounds=evaluation.bootstrap_rounds, seed=0)
    return sums.observed / len(per_problem), sums.rounds / len(per_problem)


def _mean_accuracy(heads: Sequence[TrainedCandidate]) -> Floats:
    """Accuracy of each problem of the reporting half, mean over the heads, [problems]."""
    scores = [head.report for head in heads if head.report is not None]
    if not scores:
        raise CriticError(
            "every head of one size of the curve diverged; lower training.value_head_learning_rate"
        )
    return np.asarray(np.mean([_accuracy(one) for one in scores], axis=0))


def _accuracy(scored: ScoredSamples) -> Floats:
    counts = pairwise_counts(scored)
    return np.asarray(counts.wins / counts.num_pairs)


def _signed(gain: Interval) -> str:
    if gain.low is None or gain.high is None:
        return f"{gain.estimate:+.3f}"
    return f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
