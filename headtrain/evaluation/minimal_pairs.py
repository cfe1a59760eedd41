"""Minimal pairs: a correct and an incorrect program that differ by a small edit."""

from collections.abc import Callable, Iterator

import numpy as np

from featurize.arrays import Ints
from headtrain.metrics.pairs import Pairs, drop_equal
from headtrain.metrics.pairwise import ScoredSamples

MOST_OF_A_LABEL = 32
"""Samples of each label compared in one problem; more are sampled down."""


def find_minimal_pairs(
    scored: ScoredSamples,
    read_outputs: Callable[[Ints], list[str]],
    *,
    largest_share: float,
    most_texts: int,
    seed: int = 0,
) -> Pairs:
    """Find pairs whose edit distance is at most `largest_share` of the longer text's characters.

    The distance is Levenshtein's: characters inserted, deleted or replaced. Problems are taken in
    random order until `most_texts` texts are read, which bounds the work.
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    empty = np.zeros(0, np.int64)
    found, num_read = [Pairs(empty, empty)], 0
    for correct, incorrect in _sample_problems(scored, np.random.default_rng(seed)):
        num_read += len(correct) + len(incorrect)
        if num_read > most_texts:
            break
        distances = cdist(
            read_outputs(correct),
            read_outputs(incorrect),
            scorer=Levenshtein.normalized_distance,
            score_cutoff=largest_share,  # larger distances become 1, which saves work
            dtype=np.float32,
        )
        i, j = np.nonzero(distances <= np.float32(largest_share))
        found.append(Pairs(correct[i], incorrect[j]))
    pairs = Pairs(*(np.concatenate(column) for column in zip(*found, strict=True)))
    return drop_equal(scored, pairs)


def _sample_problems(
    scored: ScoredSamples, generator: np.random.Generator
) -> Iterator[tuple[Ints, Ints]]:
    """Yield correct and incorrect samples of each problem with both, in random order."""
    order = np.argsort(scored.group, kind="stable")
    problems = []
    for places in np.split(order, np.flatnonzero(np.diff(scored.group[order])) + 1):
        labels = scored.is_correct[places]
        if labels.any() and not labels.all():
            problems.append((_some(places[labels], generator), _some(places[~labels], generator)))
    yield from (problems[place] for place in generator.permutation(len(problems)))


def _some(places: Ints, generator: np.random.Generator) -> Ints:
    if len(places) <= MOST_OF_A_LABEL:
        return places
    return np.sort(generator.choice(places, MOST_OF_A_LABEL, replace=False))
