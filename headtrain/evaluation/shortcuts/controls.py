"""Controls: judges whose accuracy must be 0.5, or the evaluation itself leaks the labels."""

import numpy as np

from featurize.arrays import Floats
from headtrain.evaluation.numbers import OVER_PAIRS, accuracy_intervals
from headtrain.evaluation.results import Control
from headtrain.evaluation.split import MeasuredSplit
from headtrain.metrics.bootstrap import Accuracies, resample_accuracies
from headtrain.metrics.pairwise import PairTally, ScoredSamples, pairwise_counts

PROMPT_ONLY, SHUFFLED = "prompt_only", "labels_shuffled"
MOST_SHUFFLES, MOST_SHUFFLED = 20, 2_000_000
"""The accuracy is averaged over at most 20 shuffles and at most 2 million shuffled scores: one
shuffle of few samples is noisy, one of a million is not."""

SHUFFLED_CONFIDENCE = 0.999
"""Wide, so that a control does not fail by chance once in twenty evaluations."""


def measure_controls(split: MeasuredSplit, seed: int) -> dict[str, Control]:
    """Measure both controls with the head's scores of a split."""
    prompts = split.head.with_scores(prompt_only_scores(split.head))
    found = resample_accuracies(
        {
            PROMPT_ONLY: pairwise_counts(prompts),
            SHUFFLED: shuffled_tally(split.head, seed=seed),
        },
        rounds=split.settings.bootstrap_rounds,
        seed=split.stream,
    )
    prompt = accuracy_intervals(found[PROMPT_ONLY], split.settings.confidence)
    return {
        # every pair is a tie, so it is 0.5 exactly
        PROMPT_ONLY: Control(result=prompt, holds=prompt[OVER_PAIRS.key].estimate == 0.5),
        SHUFFLED: Control(
            result=accuracy_intervals(found[SHUFFLED], split.settings.confidence),
            holds=_includes_chance(found[SHUFFLED]),
        ),
    }


def prompt_only_scores(scored: ScoredSamples) -> Floats:
    """Score by the share of correct samples in the problem: the best that the prompt can tell.

    It uses the labels, so no real judge has it. It cannot order the samples of a problem.
    """
    group = scored.group
    return np.asarray((np.bincount(group, scored.is_correct) / np.bincount(group))[group])


def shuffled_tally(scored: ScoredSamples, *, seed: int) -> PairTally:
    """Tally the scores with labels shuffled within problems, the mean over several shuffles.

    The scores are shuffled instead of the labels, which is equivalent and keeps the pairs.
    """
    generator = np.random.default_rng(seed)
    num_shuffles = min(MOST_SHUFFLES, max(1, MOST_SHUFFLED // len(scored)))
    order = np.argsort(scored.problem, kind="stable")
    tallies = []
    for _ in range(num_shuffles):
        mixed = np.lexsort((generator.random(len(scored)), scored.problem))
        scores = np.empty(len(scored))
        scores[order] = scored.scores[mixed]
        tallies.append(pairwise_counts(scored.with_scores(scores)))
    wins = np.sum([tally.wins for tally in tallies], axis=0)  # whole halves: exact in any order
    return PairTally(wins=wins / num_shuffles, num_pairs=tallies[0].num_pairs)


def _includes_chance(accuracies: Accuracies) -> bool:
    wide = accuracies.over_problems.interval(SHUFFLED_CONFIDENCE)
    return wide.low is None or wide.high is None or wide.low <= 0.5 <= wide.high
