"""Scores of a problem by its best answers, as RewardBench 2 defines them (arXiv 2506.01937)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from featurize.arrays import Floats
from headtrain.metrics.pairwise import ScoredSamples

_WEIGHTS = (0.3, 0.3, 0.2, 0.2, 0.01)


def top_1(scored: ScoredSamples) -> Floats:
    """Measure whether the highest score of each problem is a correct answer's, [problems].

    If k answers share the highest score, it is the share of correct ones among them: 1 / k with
    one correct answer, as in `reroll_and_score_dataset` of reward-bench.
    """
    highest = np.full(scored.num_groups, -np.inf)
    np.maximum.at(highest, scored.group, scored.scores)
    is_best = scored.scores == highest[scored.group]

    num_best = np.bincount(scored.group, is_best, scored.num_groups)
    num_right = np.bincount(scored.group, is_best & scored.is_correct, scored.num_groups)
    return np.asarray(num_right / num_best, np.float64)


class Margins(NamedTuple):
    """Differences of the scores of one prompt."""

    between_correct: float
    """Best correct answer minus worst correct answer."""
    above_incorrect: float
    """Worst correct answer minus best incorrect answer."""

    @classmethod
    def of(cls, correct: Floats, incorrect: Floats) -> "Margins":
        """Measure the scores of the correct and of the incorrect answers, at least one each."""
        lowest = float(np.min(correct))
        return cls(float(np.max(correct)) - lowest, lowest - float(np.max(incorrect)))


def ties_score(references: Mapping[str, Margins], tied: Mapping[str, Margins]) -> float | None:
    """Measure the score of the subset Ties: equally good answers should have about equal scores.

    Both are by prompt: `references` have one correct answer, `tied` several that are equally
    good. 0.3 times the share of tied prompts whose correct answers all score above the incorrect
    ones, and 0.3 times that of references; 0.2 times the share of prompts whose correct answers
    differ by less than their margin above the incorrect ones, and 0.2 times the share where they
    also differ by less than the reference's margin; 0.01 times by how much. The formula of
    `process_single_model` of reward-bench. None if no prompt is in both.
    """
    shared = sorted(references.keys() & tied.keys())
    if not shared:
        return None
    spread = np.array([tied[name].between_correct for name in shared])
    above = np.array([tied[name].above_incorrect for name in shared])
    least = np.minimum([references[name].above_incorrect for name in shared], above)
    with np.errstate(divide="ignore", invalid="ignore"):  # a spread of 0: infinite, or 0 / 0
        # NOTE: reward-bench counts 0 / 0 as 0; values that are NaN were refused before.
        how_much = np.nan_to_num(np.tanh(least / spread - 1), nan=0.0)
    parts = (
        _share_above(tied),
        _share_above(references),
        float(np.mean(above > spread)),
        float(np.mean(least > spread)),
        float(np.mean(how_much)),
    )
    return sum(weight * part for weight, part in zip(_WEIGHTS, parts, strict=True))


def _share_above(prompts: Mapping[str, Margins]) -> float:
    return float(np.mean([margins.above_incorrect > 0 for margins in prompts.values()]))
