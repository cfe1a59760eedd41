"""Best-of-n pass rates: a judge picks one of n candidates, averaged over all subsets of n.

Sort a problem's m candidates by score. Those with equal scores form a tie group g with `above`
candidates scored higher, `size` members, and a share `right` of correct members. The best of a
random subset of n is in g if the subset has no candidate from above and at least one from g:

    P(g) = [C(m - above, n) - C(m - above - size, n)] / C(m, n)

Members of g are picked equally often, so the pass rate is the sum of P(g) * right. This is the
exact mean over all C(m, n) subsets, in O(m log m) per problem and n.

The scores of a problem's best answers are those of RewardBench 2 (arXiv 2506.01937).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from featurize.arrays import Bools, Floats, Ints
from headtrain.metrics.groups import sort_ties
from headtrain.metrics.pairwise import ScoredSamples

NUM_SUBSETS = 200
"""Random subsets for the majority vote of one problem."""


def pass_rates(scored: ScoredSamples, sizes: tuple[int, ...]) -> Floats:
    """Pass rate of each problem when the highest score of n is picked, [problems, sizes].

    Problems are in ascending order of their codes; NaN for fewer than n candidates.
    """
    order, problem_start, tie_start = sort_ties(scored.problem, -scored.scores)
    tie_size = np.diff(tie_start, append=len(scored))
    owner = np.searchsorted(problem_start, tie_start, side="right") - 1  # [ties]
    right = np.add.reduceat(scored.is_correct[order].astype(np.float64), tie_start) / tie_size
    num_candidates = np.diff(problem_start, append=len(scored))  # [problems]
    above = tie_start - problem_start[owner]
    total = num_candidates[owner]  # [ties]
    rates = np.empty((len(num_candidates), len(sizes)))
    for place, n in enumerate(sizes):
        chosen = _share_of_subsets(total - above, total, n)
        chosen -= _share_of_subsets(total - above - tie_size, total, n)
        rates[:, place] = np.bincount(owner, chosen * right, len(num_candidates))
        rates[num_candidates < n, place] = np.nan
    return rates


def oracle_rates(scored: ScoredSamples, sizes: tuple[int, ...]) -> Floats:
    """Share of subsets with a correct candidate, 1 - C(m - c, n) / C(m, n), [problems, sizes]."""
    return pass_rates(scored.with_scores(scored.is_correct.astype(np.float64)), sizes)


def mean_rates(scored: ScoredSamples, sizes: tuple[int, ...]) -> Floats:
    """Pass rate of any candidate, c / m, whatever n, [problems, sizes]."""
    return pass_rates(scored.with_scores(np.zeros(len(scored))), sizes)


def majority_rates(
    scored: ScoredSamples, outputs: Ints, sizes: tuple[int, ...], *, seed: int
) -> Floats:
    """Pass rate of each problem when the most frequent of n outputs is picked, [problems, sizes].

    outputs are [n] codes, equal for equal outputs; ties are broken at random. The mean over random
    subsets, so unbiased. A problem without equal outputs has the mean rate of its candidates.
    """
    generator = np.random.default_rng(seed)
    rates = []
    for places in _by_group(scored):
        labels = scored.is_correct[places].astype(np.float64)
        names, code = np.unique(outputs[places], return_inverse=True)
        if len(names) == len(code):
            rates.append([labels.mean() if n <= len(code) else np.nan for n in sizes])
        else:
            rates.append([_majority_rate(code, labels, n, generator) for n in sizes])
    return np.array(rates)


def halved_rates(
    scored: ScoredSamples, early: Floats, sizes: tuple[int, ...], *, seed: int
) -> Floats:
    """Pass rate of each problem if half of n candidates are dropped early, [problems, sizes].

    Of a random subset of n the better half by `early` [samples] is kept, rounded up, and the
    highest score of these is picked; ties are broken at random. The mean over random subsets, so
    unbiased.
    """
    generator = np.random.default_rng(seed)
    return np.array(
        [
            [
                _halved_rate(
                    early[places], scored.scores[places], scored.is_correct[places], n, generator
                )
                for n in sizes
            ]
            for places in _by_group(scored)
        ]
    )


def _by_group(scored: ScoredSamples) -> list[Ints]:
    """The places of the samples of each group."""
    order = np.argsort(scored.group, kind="stable")
    starts = np.flatnonzero(np.diff(scored.group[order]))
    return np.split(order, starts + 1)


def choose_sizes(num_candidates: Ints) -> tuple[int, ...]:
    """Get 1, 2, 4, ... up to the median number of candidates."""
    most = int(np.median(num_candidates))
    return tuple(2**power for power in range(most.bit_length()) if 2**power <= most)


def _share_of_subsets(part: Ints, whole: Ints, n: int) -> Floats:
    """C(part, n) / C(whole, n), and 0 if part < n; [groups]."""
    most = max(int(whole.max()), n)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])  # of factorials
    enough = part >= n
    part, whole = np.maximum(part, n), np.maximum(whole, n)  # masked below
    share = np.exp(logs[part] - logs[part - n] - logs[whole] + logs[whole - n])
    return np.where(enough, share, 0.0)


def _draw_subsets(num_candidates: int, n: int, generator: np.random.Generator) -> Ints:
    """Draw n candidates, in random order, of each of the random subsets, [subsets, n]."""
    keys = generator.random((NUM_SUBSETS, num_candidates))
    return np.asarray(np.argsort(keys, axis=1)[:, :n])


def _halved_rate(
    early: Floats, scores: Floats, labels: Bools, n: int, generator: np.random.Generator
) -> float:
    if n > len(labels):
        return float("nan")
    drawn = _draw_subsets(len(labels), n, generator)
    # Stable sorts break ties by that order.
    kept = np.argsort(-early[drawn], axis=1, kind="stable")[:, : (n + 1) // 2]
    drawn = np.take_along_axis(drawn, np.sort(kept, axis=1), axis=1)
    picked = np.argmax(scores[drawn], axis=1)
    return float(labels[drawn[np.arange(NUM_SUBSETS), picked]].mean())


def _majority_rate(code: Ints, labels: Floats, n: int, generator: np.random.Generator) -> float:
    if n > len(code):
        return float("nan")
    drawn = _draw_subsets(len(code), n, generator)
    votes = np.zeros((NUM_SUBSETS, int(code.max()) + 1))
    np.add.at(votes, (np.arange(NUM_SUBSETS)[:, None], code[drawn]), 1.0)
    # equal outputs may have different labels; then each of them is picked equally often
    own = np.take_along_axis(votes, code[drawn], axis=1)  # [subsets, n] votes for its output
    is_top = own == own.max(axis=1, keepdims=True)
    # ties are broken among outputs: all top outputs have the same number of candidates
    return float(((labels[drawn] * is_top).sum(axis=1) / is_top.sum(axis=1)).mean())


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
