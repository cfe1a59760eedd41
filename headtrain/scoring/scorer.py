"""Scores samples with a head: values, probabilities, ranks and how far an ensemble disagrees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from featurize.arrays import Floats, Ints
from featurize.data.index import DatasetIndex
from featurize.errors import CriticError
from featurize.store import FeatureStore
from featurize.store.samples import statement_codes
from headtrain.features.samples import rank_strings
from headtrain.head.checkpoint import CheckpointError, TrainedHead
from headtrain.metrics.calibration import Calibration
from headtrain.metrics.groups import group_codes
from headtrain.scoring.verdict import Along, By

if TYPE_CHECKING:
    from headtrain.scoring.critic import Critic

SCORE, PROBABILITY, RANK, SPREAD = "score", "probability", "rank", "score_spread"
DISTANCE = "distance"
ALONG, POSITIONS = "score_along", "score_along_tokens"
"""Fields of a scored row; the last two have the value of each prefix, and its number of tokens."""

_ROWS_AT_ONCE = 256
"""Rows whose values along the output are computed together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of n samples."""

    values: Floats
    """[n] on the head's own scale; higher means more likely correct."""
    spreads: Floats | None
    """[n] standard deviation of the members' values; None for a single head."""
    calibration: Calibration | None
    distances: Floats | None = None
    """[n] share of the head's train samples that are nearer to train; None: not asked for."""
    groups: Ints | None = None
    """[n] code of problem, language and statement; samples of equal code are ranked together."""

    @property
    def probabilities(self) -> Floats:
        """[n] calibrated probability of being correct."""
        assert self.calibration is not None, "scorer.check_calibration comes first"
        return self.calibration.probability(self.values)

    @property
    def log_odds(self) -> Floats:
        """[n] calibrated log-odds of being correct."""
        assert self.calibration is not None, "scorer.check_calibration comes first"
        return self.calibration.log_odds(self.values)

    @property
    def ranks(self) -> Ints:
        """[n] rank within the group: 1 is the highest value, ties share the smaller rank."""
        assert self.groups is not None, "only samples of a store are ranked"
        return rank_within(self.values, self.groups)

    def to_fields(self) -> dict[str, Ints | Floats]:
        """Return the columns to write, by name and in order."""
        fields: dict[str, Ints | Floats] = {
            SCORE: self.values,
            PROBABILITY: self.probabilities,
            RANK: self.ranks,
        }
        if self.spreads is not None:
            fields[SPREAD] = self.spreads
        if self.distances is not None:
            fields[DISTANCE] = self.distances
        return fields

    @property
    def share_far(self) -> float | None:
        """Share of the samples that are farther from train than 90% of it; None: not asked for."""
        return None if self.distances is None else float((self.distances > 0.9).mean())


class Scorer:
    """Turns features, from a store or from an engine, into scores."""

    def __init__(
        self,
        head: TrainedHead,
        calibration: Calibration | None = None,
        *,
        has_distance: bool | None = False,
    ) -> None:
        """`calibration` replaces the head's. `has_distance` None: if it was saved with the head.

        Raises:
            CheckpointError: `has_distance`, and the distance to train was not saved with the head.
        """
        decision = head.record.decision
        self.head = head
        self.calibration = calibration or (decision.calibration if decision else None)
        self.is_ensemble = head.record.num_members > 1
        self.distance = None if has_distance is False else head.read_distance()
        if has_distance and self.distance is None:
            raise CheckpointError(
                f"{head.path}: the distance to train was not saved with this head; run `critic"
                " train-head --distance`, which saves it without training again"
            )

    @property
    def field_names(self) -> list[str]:
        """The names of `Scores.to_fields`."""
        spread = [SPREAD] if self.is_ensemble else []
        return [SCORE, PROBABILITY, RANK, *spread, *([DISTANCE] if self.distance else [])]

    def check_calibration(self) -> None:
        """Raise CheckpointError if there is nothing to compute probabilities with."""
        if self.calibration is None:
            raise CheckpointError(
                f"{self.head.path}: has no calibration (an intermediate checkpoint, or one of an"
                " older version), so there are values but no probabilities; run `critic train-head"
                " --overwrite` again and take best or final"
            )

    def score_store(self, store: FeatureStore) -> Scores:
        """Score every sample of a store, labelled or not, in the order of its table."""
        problems, languages = (
            rank_strings(store.samples[name]).codes for name in ("problem_id", "language")
        )
        distances = None
        if self.distance is not None:
            distances = np.asarray(self.head.distances(store, self.distance), np.float64)
        groups = group_codes(problems, languages, statement_codes(store.samples))
        return replace(self.score(store), groups=groups, distances=distances)

    def score(self, inputs: FeatureStore | torch.Tensor) -> Scores:
        """Score a store, or inputs of the head [n, width]: values and spreads alone."""
        spreads = np.asarray(self.head.spread(inputs), np.float64) if self.is_ensemble else None
        values = np.asarray(self.head.score(inputs), np.float64)
        return Scores(values=values, spreads=spreads, calibration=self.calibration)

    def measure(self, features: torch.Tensor, rows: Ints) -> Floats | None:
        """Measure the distances of some rows of inputs [rows, width]; None if not asked for."""
        if self.distance is None:
            return None
        found = self.distance.measure(features[rows].numpy())
        return found.astype(np.float32).astype(np.float64)  # as those of a store


def rank_within(values: Floats, groups: Ints) -> Ints:
    """Rank each value within its group, [n]: 1 is the highest, ties share the smaller rank."""
    order = np.lexsort((-values, groups))
    groups, values = groups[order], values[order]
    places = np.arange(len(order))
    opens_group = np.append(True, groups[1:] != groups[:-1])[: len(order)]
    opens_tie = opens_group | np.append(True, values[1:] != values[:-1])[: len(order)]
    starts = np.maximum.accumulate(np.where(opens_group, places, 0))
    firsts = np.maximum.accumulate(np.where(opens_tie, places, 0))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = firsts - starts + 1
    return ranks


def describe_scores(scores: Scores, samples: pa.Table, num_rows: int) -> dict[str, Any]:
    """Account for every row of a scored file, by name; `samples` is the table of the store."""
    num_distinct = len(np.unique(samples["feature_row"].to_numpy()))
    assert scores.groups is not None, "they are those of a store"
    group_sizes = np.bincount(scores.groups)
    return {
        "rows written": num_rows,
        "samples scored": samples.num_rows,
        "duplicates of another sample (same score)": samples.num_rows - num_distinct,
        "samples with a truncated prompt": pc.sum(samples["prompt_truncated"]).as_py(),
        "samples with a truncated output": pc.sum(samples["output_truncated"]).as_py(),
        "problems": len(group_sizes),
        "samples alone in their problem (rank 1)": int((group_sizes == 1).sum()),
        "lowest score": float(scores.values.min()),
        "highest score": float(scores.values.max()),
        "mean probability": float(scores.probabilities.mean()),
        **_describe_distances(scores.distances),
    }


def _describe_distances(distances: Floats | None) -> dict[str, Any]:
    if distances is None:
        return {}
    return {
        "mean distance to train (0.5 is usual)": float(distances.mean()),
        "farther from train than 90% of it": f"{(distances > 0.9).mean():.1%}",
        "farther from train than 99% of it": f"{(distances > 0.99).mean():.1%}",
    }


def judge_along(
    critic: "Critic", index: DatasetIndex, by: By, progress: Callable[[int, int], None]
) -> dict[str, pa.ListArray]:
    """Compute the values along every sample of an index; texts are read part by part.

    `progress` is called with the samples done and all. Returns the columns to write, [samples]:
    lists of values (float64) and of positions (int32).

    Raises:
        CriticError: a sample cannot be encoded (names file and line), or a value is not finite.
    """
    values, positions = [], []
    for start in range(0, len(index), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(index)))
        found = _judge_part(critic, index, by, rows)
        values.append(pa.array([along.values for along in found], pa.list_(pa.float64())))
        positions.append(pa.array([along.positions for along in found], pa.list_(pa.int32())))
        progress(int(rows[-1]) + 1, len(index))
    return {ALONG: pa.concat_arrays(values), POSITIONS: pa.concat_arrays(positions)}


def _judge_part(critic: "Critic", index: DatasetIndex, by: By, rows: Ints) -> list[Along]:
    samples = []
    for row in index.read(rows):
        try:
            samples.append(critic.samples.with_prefixes(critic.samples.encode_row(row), by))
        except ValueError as error:
            raise CriticError(f"{row.location}: {error}") from error
    return [one.along for one in critic.judge_samples(samples) if one.along is not None]
