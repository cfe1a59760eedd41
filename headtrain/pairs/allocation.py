"""How many of the drawn pairs each problem gives: exactly the total, in whole numbers."""

import numpy as np
import numpy.typing as npt

from featurize.arrays import Ints
from headtrain.pairs.rng import Draws


def share_out(limits: Ints, total: int, weights: Ints, draws: Draws) -> Ints:
    """Share total (at most limits.sum()) in proportion to weights, nobody above their limit.

    Like water over an uneven floor: whoever's share exceeds the limit gets the limit, and the rest
    is shared among the others. What is left of a whole number goes to members drawn so that the
    expected quota of each is its share. limits and weights are [members], positive.

    NOTE: all of it in whole numbers; a float's last digit differs between machines.
    """
    quotas = np.zeros_like(limits)
    rest = np.arange(len(limits))  # members not at their limit
    left = total
    while len(rest):
        shared = weights[rest] * left  # a share is this by the sum of weights
        sum_of_weights = weights[rest].sum()
        quotas[rest] = shared // sum_of_weights
        is_full = limits[rest] <= quotas[rest]
        if not is_full.any():
            break
        full, rest = rest[is_full], rest[~is_full]
        quotas[full] = limits[full]
        left -= limits[full].sum()
    if len(rest):
        quotas[rest] += _round_up(shared % sum_of_weights, sum_of_weights, draws)
    return quotas


def spread_uniformly(limits: Ints, total: int, weights: Ints, draws: Draws) -> Ints:
    """How often each member comes when total of its limits' units are drawn from all at once.

    Every unit is equally likely among members of one weight, and twice as likely as one of half
    the weight, until a weight's units run out.
    """
    distinct_weights, classes = np.unique(weights, return_inverse=True)
    units = [int(limits[classes == number].sum()) for number in range(len(distinct_weights))]
    # NOTE: Python's own integers: billions of units times their weight outgrow 64 bits.
    mass = [int(weight) * size for weight, size in zip(distinct_weights, units, strict=True)]
    shares = share_out(np.array(units, object), total, np.array(mass, object), draws)
    quotas = np.zeros_like(limits)
    for number, share in enumerate(shares):
        members = np.flatnonzero(classes == number)
        drawn = draws.distinct(np.array([units[number]]), np.array([int(share)]))
        owners = np.searchsorted(np.cumsum(limits[members]), drawn, side="right")
        quotas[members] = np.bincount(owners, minlength=len(members))
    return quotas


def _round_up(remainders: Ints, divisor: int, draws: Draws) -> npt.NDArray[np.bool_]:
    """Choose members, each with the chance remainder / divisor, as many as the sum makes whole.

    Laid end to end in random order, a remainder is chosen when it covers a whole multiple of the
    divisor, counted from a random start.
    """
    order = draws.order(len(remainders))
    ends = np.cumsum(remainders[order]) + draws.below(np.array([divisor]))[0]
    is_chosen = np.zeros(len(remainders), bool)
    is_chosen[order] = ends // divisor > (ends - remainders[order]) // divisor
    return is_chosen
