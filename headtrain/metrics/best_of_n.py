"""The pass rate when a judge picks the best of n candidates, over all subsets of n.

Of m candidates with c correct, sorted by score from the top, those that share a score form a tie
group g with `above` candidates over it, `size` in it and a share of `right` correct ones. The best
of a random subset of n lies in g when the subset has none from above and some from g:

    P(g) = [C(m - above, n) - C(m - above - size, n)] / C(m, n)

and within g every member is picked as often, so the pass rate is the sum of P(g) * right. This is
the mean over all C(m, n) subsets, exactly, in O(m log m) a problem for all n.
"""

import numpy as np

from featurize.arrays import Floats, Ints
from headtrain.metrics.pairwise import ScoredSamples


def pass_rates(scored: ScoredSamples, sizes: tuple[int, ...]) -> Floats:
    """Pass rate of each problem when the highest score of n is picked, [problems, sizes].

    Problems are in ascending order of their codes; NaN where there are fewer than n candidates.
    """
    order = np.argsort(-scored.scores, kind="stable")
    order = order[np.argsort(scored.problem[order], kind="stable")]
    problem, score = scored.problem[order], scored.scores[order]
    is_first = np.r_[True, problem[1:] != problem[:-1]]
    group_start = np.flatnonzero(is_first | np.r_[True, score[1:] != score[:-1]])
    group_size = np.diff(group_start, append=len(scored))
    owner = (np.cumsum(is_first) - 1)[group_start]  # [groups]
    right = np.add.reduceat(scored.is_correct[order].astype(np.float64), group_start) / group_size
    num_candidates = np.diff(np.flatnonzero(is_first), append=len(scored))  # [problems]
    above = group_start - np.flatnonzero(is_first)[owner]
    total = num_candidates[owner]  # [groups]
    rates = np.empty((len(num_candidates), len(sizes)))
    for place, n in enumerate(sizes):
        chosen = _share_of_subsets(total - above, total, n)
        chosen -= _share_of_subsets(total - above - group_size, total, n)
        rates[:, place] = np.bincount(owner, chosen * right, len(num_candidates))
        rates[num_candidates < n, place] = np.nan
    return rates


def oracle_rates(scored: ScoredSamples, sizes: tuple[int, ...]) -> Floats:
    """Share of subsets with a correct candidate, 1 - C(m - c, n) / C(m, n), [problems, sizes]."""
    return pass_rates(scored.with_scores(scored.is_correct.astype(np.float64)), sizes)


def mean_rates(scored: ScoredSamples, sizes: tuple[int, ...]) -> Floats:
    """Pass rate of any candidate, c / m, whatever n, [problems, sizes]."""
    return pass_rates(scored.with_scores(np.zeros(len(scored))), sizes)


def choose_sizes(num_candidates: Ints) -> tuple[int, ...]:
    """1, 2, 4, ... up to what at least half of the problems have."""
    most = int(np.median(num_candidates))
    return tuple(2**power for power in range(most.bit_length()) if 2**power <= most)


def _share_of_subsets(part: Ints, whole: Ints, n: int) -> Floats:
    """C(part, n) / C(whole, n), 0 where part < n; [groups]."""
    most = max(int(whole.max()), n)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])  # of factorials
    enough = part >= n
    part, whole = np.maximum(part, n), np.maximum(whole, n)  # what is not enough is 0 below
    share = np.exp(logs[part] - logs[part - n] - logs[whole] + logs[whole - n])
    return np.where(enough, share, 0.0)
