"""What a head says of every sample of a file: value, probability, rank within its problem."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featurize.arrays import Floats, Ints
from featurize.store import FeatureStore
from headtrain.features.columns import rank_strings
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.calibration import Calibration

Numbers = Ints | Floats

SCORE, PROBABILITY, RANK, SPREAD = "score", "probability", "rank", "score_spread"


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleValues:
    """Columns of numbers, a row a sample."""

    columns: Mapping[str, Numbers]
    """By the names under which they are written, in order."""
    num_groups: int
    """Problems, each in one language: what is ranked among itself."""
    num_alone: int
    """Samples whose rank says nothing, as nobody else is in their group."""


def column_names(head: TrainedHead) -> list[str]:
    """What `judge_samples` will find; only an ensemble can disagree."""
    return [SCORE, PROBABILITY, RANK, *([SPREAD] if head.record.num_members > 1 else [])]


def judge_samples(head: TrainedHead, store: FeatureStore, calibration: Calibration) -> SampleValues:
    """Score every sample of a store, labelled or not; the spread is that of an ensemble."""
    scores = np.asarray(head.score(store), np.float64)
    problems = rank_strings(store.samples["problem_id"]).codes
    languages = rank_strings(store.samples["language"]).codes
    _, groups = np.unique(np.stack([problems, languages]), axis=1, return_inverse=True)
    groups = groups.reshape(-1).astype(np.int64)
    columns: dict[str, Numbers] = {
        SCORE: scores,
        PROBABILITY: calibration.probability(scores),
        RANK: rank_within(scores, groups),
    }
    if head.record.num_members > 1:
        columns[SPREAD] = np.asarray(head.spread(store), np.float64)
    sizes = np.bincount(groups)
    return SampleValues(columns=columns, num_groups=len(sizes), num_alone=int((sizes == 1).sum()))


def rank_within(scores: Floats, groups: Ints) -> Ints:
    """The place of each score within its group, [n]: 1 the highest, ties share the smaller one."""
    order = np.lexsort((-scores, groups))
    groups, scores = groups[order], scores[order]
    places = np.arange(len(order))
    opens_group = np.append(True, groups[1:] != groups[:-1])[: len(order)]
    opens_tie = opens_group | np.append(True, scores[1:] != scores[:-1])[: len(order)]
    starts = np.maximum.accumulate(np.where(opens_group, places, 0))
    firsts = np.maximum.accumulate(np.where(opens_tie, places, 0))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = firsts - starts + 1
    return ranks
