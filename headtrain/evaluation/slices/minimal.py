"""Pairs whose two programs a small edit makes of each other: the hardest, and the fairest."""

from collections.abc import Callable

import numpy as np

from featurize.arrays import Ints
from headtrain.evaluation.samples.facts import NearPairs
from headtrain.metrics.accuracies import PairTally
from headtrain.metrics.pairwise import ScoredSamples

MOST_OF_A_LABEL = 32
"""Samples of either label compared in one problem; of more, so many are drawn."""


def find_near_pairs(
    scored: ScoredSamples,
    read_outputs: Callable[[Ints], list[str]],
    *,
    largest_share: float,
    most_texts: int,
    seed: int = 0,
) -> NearPairs:
    """Pairs whose edit distance is at most `largest_share` of the longer text's characters.

    The distance is Levenshtein's: characters inserted, deleted or replaced. Problems are taken at
    random until `most_texts` texts are read, so that the work is bounded; scores do not matter.
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    generator = np.random.default_rng(seed)
    found: list[tuple[Ints, Ints]] = []
    num_read = 0
    for correct, incorrect in _drawn_problems(scored, generator):
        num_read += len(correct) + len(incorrect)
        if num_read > most_texts:
            break
        distances = cdist(
            read_outputs(correct),
            read_outputs(incorrect),
            scorer=Levenshtein.normalized_distance,
            score_cutoff=largest_share,  # beyond it the distance is 1 and the work is saved
            dtype=np.float32,
        )
        i, j = np.nonzero(distances <= np.float32(largest_share))
        found.append((correct[i], incorrect[j]))
    empty = np.zeros(0, np.int64)
    return NearPairs(
        correct=np.concatenate([empty, *(pair[0] for pair in found)]),
        incorrect=np.concatenate([empty, *(pair[1] for pair in found)]),
    )


def near_tally(scored: ScoredSamples, near: NearPairs) -> PairTally:
    """Wins and pairs of every problem among the near pairs."""
    names, problem = np.unique(scored.problem, return_inverse=True)
    margin = scored.scores[near.correct] - scored.scores[near.incorrect]  # [pairs]
    owner = problem[near.correct]
    return PairTally(
        wins=np.asarray(np.bincount(owner, (np.sign(margin) + 1) / 2, len(names)), np.float64),
        num_pairs=np.bincount(owner, minlength=len(names)).astype(np.int64),
    )


def _drawn_problems(
    scored: ScoredSamples, generator: np.random.Generator
) -> list[tuple[Ints, Ints]]:
    """Places of correct and incorrect samples of each problem with both, in random order."""
    order = np.argsort(scored.problem, kind="stable")
    starts = np.flatnonzero(np.diff(scored.problem[order], prepend=scored.problem[order[0]] - 1))
    problems = []
    for places in np.split(order, starts[1:]):
        labels = scored.is_correct[places]
        if labels.any() and not labels.all():
            problems.append((_some(places[labels], generator), _some(places[~labels], generator)))
    return [problems[place] for place in generator.permutation(len(problems))]


def _some(places: Ints, generator: np.random.Generator) -> Ints:
    if len(places) <= MOST_OF_A_LABEL:
        return places
    return np.sort(generator.choice(places, MOST_OF_A_LABEL, replace=False))
