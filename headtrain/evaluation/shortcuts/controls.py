"""Judges that must get 50%: they show that the harness itself gives nothing away."""

import numpy as np

from featurize.arrays import Floats
from headtrain.evaluation.results import Control
from headtrain.metrics.accuracies import Accuracies, PairTally
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts

PROMPT_ONLY, SHUFFLED = "prompt_only", "labels_shuffled"
MOST_SHUFFLES, MOST_SHUFFLED = 20, 2_000_000
"""One shuffle of few samples is a noisy fifty percent, the mean of many is not; of a million
samples one is enough. So many shuffles are made, but at most so many scores moved."""

SHUFFLED_CONFIDENCE = 0.999
"""A control that fails once in twenty evaluations would teach to ignore it."""


def prompt_only_scores(scored: ScoredSamples) -> Floats:
    """Scores of the best judge that sees the prompt alone: the share of correct in each problem.

    It reads the labels, so nobody has it; but within a problem it says nothing, and its AUC is
    what knowing the easy problems is worth.
    """
    _, code = np.unique(scored.problem, return_inverse=True)
    return np.asarray((np.bincount(code, scored.is_correct) / np.bincount(code))[code])


def shuffled_tally(scored: ScoredSamples, *, seed: int) -> PairTally:
    """Wins of the scores when labels are shuffled within problems, the mean of several shuffles.

    Scores are shuffled in place of labels, which is the same and keeps the pairs.
    """
    generator = np.random.default_rng(seed)
    num_shuffles = min(MOST_SHUFFLES, max(1, MOST_SHUFFLED // len(scored)))
    order = np.argsort(scored.problem, kind="stable")
    totals, counts = None, None
    for _ in range(num_shuffles):
        mixed = np.lexsort((generator.random(len(scored)), scored.problem))
        scores = np.empty(len(scored))
        scores[order] = scored.scores[mixed]
        counts = pairwise_counts(scored.with_scores(scores))
        totals = counts.wins if totals is None else totals + counts.wins
    assert totals is not None
    assert counts is not None
    return PairTally(wins=totals / num_shuffles, num_pairs=counts.num_pairs)


def check_prompt_only(accuracies: Accuracies, confidence: float) -> Control:
    """It holds when it is 50% exactly: every pair is a tie."""
    result = accuracies.result(confidence)
    return Control(result=result, holds=result.accuracy_over_pairs.estimate == 0.5)


def check_shuffled(accuracies: Accuracies, confidence: float) -> Control:
    """It holds when 50% is within a very wide interval."""
    wide = accuracies.over_problems.interval(SHUFFLED_CONFIDENCE)
    is_known = wide.low is not None and wide.high is not None
    holds = not is_known or bool(wide.low <= 0.5 <= wide.high)  # type: ignore[operator]
    return Control(result=accuracies.result(confidence), holds=holds)
