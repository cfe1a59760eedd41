"""The (correct, incorrect) pairs of a split, listed in chunks: their tallies and margins."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featurize.arrays import Bools, Floats, Ints
from headtrain.metrics.groups import ranks_within
from headtrain.metrics.pairwise import PairTally, ScoredSamples

PAIRS_AT_ONCE = 2**18
"""Pairs of one chunk: few megabytes, so that a chunk stays in the cache."""


class Pairs(NamedTuple):
    """Pairs of one problem each, as indices of samples."""

    correct: Ints
    """[pairs]"""
    incorrect: Ints
    """[pairs]"""

    def take(self, kept: Bools | Ints) -> "Pairs":
        """Select pairs by a mask [pairs] or by index."""
        return Pairs(self.correct[kept], self.incorrect[kept])


class Partners(NamedTuple):
    """Each correct sample with the range of the incorrect samples of its problem."""

    correct: Ints
    """[correct] indices of samples, by problem"""
    incorrect: Ints
    """[incorrect] indices of samples, by problem"""
    begin: Ints
    """[correct] first partner in `incorrect`"""
    end: Ints
    """[correct] one past the last partner"""


def find_partners(scored: ScoredSamples) -> Partners:
    """Find the incorrect samples that each correct sample is compared with."""
    order = np.argsort(scored.group, kind="stable")
    labels = scored.is_correct[order]
    correct, incorrect = order[labels], order[~labels]
    groups, own = scored.group[incorrect], scored.group[correct]
    return Partners(
        correct=correct,
        incorrect=incorrect,
        begin=np.searchsorted(groups, own, side="left").astype(np.int64),
        end=np.searchsorted(groups, own, side="right").astype(np.int64),
    )


def list_pairs(scored: ScoredSamples, at_once: int = PAIRS_AT_ONCE) -> Iterator[Pairs]:
    """Yield all pairs of a split in chunks; a chunk holds all pairs of its correct samples."""
    correct, incorrect, begin, end = find_partners(scored)
    counts = end - begin
    ends = np.cumsum(counts)  # [correct] pairs up to and including those of each correct sample
    first = 0
    while first < len(correct):
        before = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, before + at_once, side="right")))
        chunk = slice(first, last)
        own = counts[chunk]
        places = np.repeat(begin[chunk], own) + ranks_within(own)
        pairs = Pairs(np.repeat(correct[chunk], own), incorrect[places])
        yield drop_equal(scored, pairs)
        first = last


def drop_equal(scored: ScoredSamples, pairs: Pairs) -> Pairs:
    """Leave out the pairs whose sides have the same tokens, which are not compared."""
    equal = scored.equal_pairs
    if equal is None or not len(equal):
        return pairs
    numbers = np.array([len(scored), 1])  # of a pair: correct * n + incorrect
    is_equal = np.isin(np.stack(pairs, axis=1) @ numbers, equal @ numbers)
    return pairs.take(~is_equal)


def tally_pairs(
    judges: Mapping[str, ScoredSamples], pairs: Iterable[Pairs]
) -> dict[str, PairTally]:
    """Tally some of the pairs for judges of the same samples; the problems are `group` codes."""
    samples = next(iter(judges.values()))
    wins = {name: np.zeros(samples.num_groups) for name in judges}
    num_pairs = np.zeros(samples.num_groups, np.int64)
    for chunk in pairs:
        owner = samples.group[chunk.correct]
        num_pairs += np.bincount(owner, minlength=len(num_pairs))
        for name, judge in judges.items():
            wins[name] += np.bincount(owner, pair_wins(judge, chunk), len(num_pairs))
    return {name: PairTally(wins=won, num_pairs=num_pairs) for name, won in wins.items()}


def tally_length_differences(scored: ScoredSamples, edges: Ints) -> list[PairTally]:
    """Tally all pairs by how many tokens longer the correct output is.

    edges are [bins - 1], ascending; bin k holds the differences in [edges[k-1], edges[k]).
    """
    lengths, num_groups = scored.output_tokens, scored.num_groups
    shape = (len(edges) + 1, num_groups)
    wins, num_pairs = np.zeros(shape), np.zeros(shape, np.int64)
    for pairs in list_pairs(scored):
        difference = lengths[pairs.correct] - lengths[pairs.incorrect]  # [pairs]
        bins = np.searchsorted(edges, difference, side="right")
        cell = bins * num_groups + scored.group[pairs.correct]
        wins += np.bincount(cell, pair_wins(scored, pairs), wins.size).reshape(shape)
        num_pairs += np.bincount(cell, minlength=wins.size).reshape(shape)
    return [PairTally(wins=won, num_pairs=n) for won, n in zip(wins, num_pairs, strict=True)]


def similar_lengths(tolerance: float, lengths: Ints) -> Callable[[Pairs], Pairs]:
    """Keep the pairs whose longer output exceeds the shorter by at most a share `tolerance`."""

    def keep(pairs: Pairs) -> Pairs:
        one, other = lengths[pairs.correct], lengths[pairs.incorrect]
        # 1e-9: rounding must not lose a length that fits exactly
        longest = np.minimum(one, other) * (1 + tolerance) + 1e-9
        return pairs.take(np.maximum(one, other) <= longest)

    return keep


def pair_wins(scored: ScoredSamples, pairs: Pairs) -> Floats:
    """Get 1 for each pair in the right order, 0.5 for a tie and 0 otherwise, [pairs]."""
    margin = scored.scores[pairs.correct] - scored.scores[pairs.incorrect]
    return np.asarray((np.sign(margin) + 1) / 2, np.float64)


def length_difference_edges(scored: ScoredSamples, *, num_bins: int = 6, seed: int = 0) -> Ints:
    """Find edges [at most num_bins - 1] that split the pairs into bins of about equal size.

    They are quantiles of the length differences of sampled pairs, 16 for each correct sample.
    """
    correct, incorrect, begin, end = find_partners(scored)
    has_partner = end > begin
    correct, begin, end = correct[has_partner], begin[has_partner], end[has_partner]
    drawn = np.random.default_rng(seed).random((16, len(correct)))
    partner = incorrect[begin + (drawn * (end - begin)).astype(np.int64)]  # [16, correct]
    differences = (scored.output_tokens[correct] - scored.output_tokens[partner]).ravel()
    weights = np.tile(end - begin, 16)
    order = np.argsort(differences)
    share = np.cumsum(weights[order]) / weights.sum()
    wanted = np.arange(1, num_bins) / num_bins
    edges = differences[order][np.minimum(np.searchsorted(share, wanted), len(order) - 1)]
    return np.unique(edges)


def widest_pairs(scored: ScoredSamples, limit: int) -> Pairs:
    """Find the problems whose best incorrect sample scores highest above their worst correct one.

    One pair per problem, the widest first. It consists of the problem's extremes, so pairs need
    not be listed.
    """
    order = np.lexsort((scored.scores, scored.group))  # ascending within each problem
    labels = scored.is_correct[order]
    worst, best = np.full((2, scored.num_groups), -1)
    correct, incorrect = order[labels], order[~labels]
    worst[scored.group[correct][::-1]] = correct[::-1]  # the last write wins: the lowest score
    best[scored.group[incorrect]] = incorrect  # and here the highest
    pairs = Pairs(worst, best).take((worst >= 0) & (best >= 0))
    margin = scored.scores[pairs.incorrect] - scored.scores[pairs.correct]
    chosen = np.argsort(-margin, kind="stable")
    chosen = chosen[margin[chosen] > 0][:limit]
    return pairs.take(chosen)


class MarginCounts(NamedTuple):
    """Pairs by margin: the score of the correct output minus that of the incorrect one."""

    wrong: Ints
    """[bins] pairs in the wrong order, from margin 0 outwards."""
    right: Ints
    """[bins] pairs in the right order, from margin 0 outwards."""
    width: float
    """Of a bin, in units of the score."""
    num_ties: int
    """Pairs of equal scores, in no bin."""


def count_margins(scored: ScoredSamples, num_bins: int = 4096) -> MarginCounts:
    """Count all pairs of a split by their margin; num_bins on each side reach the widest pair."""
    order = np.lexsort((scored.scores, scored.group))
    starts = np.flatnonzero(np.r_[True, np.diff(scored.group[order]) > 0])
    ends = np.r_[starts[1:], len(order)] - 1
    widest = float((scored.scores[order[ends]] - scored.scores[order[starts]]).max(initial=0.0))
    width = widest / num_bins or 1.0
    sides, num_ties = np.zeros((2, num_bins), np.int64), 0
    for pairs in list_pairs(scored):
        margin = scored.scores[pairs.correct] - scored.scores[pairs.incorrect]
        places = np.minimum((np.abs(margin) / width).astype(np.int64), num_bins - 1)
        for side, chosen in zip(sides, (margin < 0, margin > 0), strict=True):
            side += np.bincount(places[chosen], minlength=num_bins)
        num_ties += int((margin == 0).sum())
    return MarginCounts(wrong=sides[0], right=sides[1], width=width, num_ties=num_ties)


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Pairs of each problem that two judges order correctly; a tie is not correct."""

    both: Ints  # [problems]
    only_first: Ints  # [problems]
    only_second: Ints  # [problems]
    num_pairs: Ints  # [problems]


class McNemar(NamedTuple):
    """Result of McNemar's exact test."""

    only_first: int
    """Pairs that only the first judge orders correctly."""
    only_second: int
    p_value: float
    """Probability of a split at least this uneven if both judges were equally good."""


def count_agreement(first: ScoredSamples, second: ScoredSamples) -> Agreement:
    """Count, for each problem, which of two judges of the same samples order a pair correctly."""
    counts = np.zeros((4, first.num_groups), np.int64)
    for correct, incorrect in list_pairs(first):
        one, two = (judge.scores[correct] > judge.scores[incorrect] for judge in (first, second))
        # 0: neither, 1: only the first, 2: only the second, 3: both
        cell = (one + 2 * two) * first.num_groups + first.group[correct]
        counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)
    return Agreement(
        both=counts[3], only_first=counts[1], only_second=counts[2], num_pairs=counts.sum(axis=0)
    )


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Two-sided exact test: min(1, 2 P(X <= the smaller)) with X ~ Binomial(n, 1/2).

    NOTE: the test treats pairs as independent. Pairs of one problem share samples, so its p-value
    is too small; prefer the bootstrap interval over problems.
    """
    from scipy.special import bdtr  # the binomial distribution function, exact for any n

    total = only_first + only_second
    tail = float(bdtr(min(only_first, only_second), total, 0.5)) if total else 1.0
    return McNemar(only_first=only_first, only_second=only_second, p_value=min(1.0, 2 * tail))
