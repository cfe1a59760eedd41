"""The pass rate when the output that most candidates agree on is picked."""

import numpy as np

from featurize.arrays import Floats, Ints
from headtrain.metrics.pairwise import ScoredSamples

NUM_SUBSETS = 200


def majority_rates(
    scored: ScoredSamples, outputs: Ints, sizes: tuple[int, ...], *, seed: int
) -> Floats:
    """Pass rate of each problem when the most frequent of n outputs is picked, [problems, sizes].

    outputs are [n] codes, equal where the outputs are; ties are broken at random. The mean of
    random subsets, so unbiased; where no two outputs agree it is the mean of all candidates.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(scored.problem, kind="stable")
    starts = np.flatnonzero(np.diff(scored.problem[order], prepend=scored.problem[order[0]] - 1))
    rates = []
    for places in np.split(order, starts[1:]):
        labels = scored.is_correct[places].astype(np.float64)
        names, code = np.unique(outputs[places], return_inverse=True)
        if len(names) == len(code):
            rates.append([labels.mean() if n <= len(code) else np.nan for n in sizes])
        else:
            rates.append([_rate(code, labels, n, generator) for n in sizes])
    return np.array(rates)


def _rate(code: Ints, labels: Floats, n: int, generator: np.random.Generator) -> float:
    if n > len(code):
        return float("nan")
    keys = generator.random((NUM_SUBSETS, len(code)))
    drawn = np.argsort(keys, axis=1)[:, :n]  # [subsets, n] candidates
    votes = np.zeros((NUM_SUBSETS, int(code.max()) + 1))
    np.add.at(votes, (np.arange(NUM_SUBSETS)[:, None], code[drawn]), 1.0)
    # equal outputs may be labelled differently; then any of them is as good a pick
    own = np.take_along_axis(votes, code[drawn], axis=1)  # [subsets, n] votes of its output
    is_top = own == own.max(axis=1, keepdims=True)
    # a tie is broken among outputs, not candidates; top outputs have equally many, so it is equal
    return float(((labels[drawn] * is_top).sum(axis=1) / is_top.sum(axis=1)).mean())
