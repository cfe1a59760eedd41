"""McNemar's exact test of two judges, on the pairs that only one of them ranks rightly."""

from typing import NamedTuple


class McNemar(NamedTuple):
    """Discordant pairs and what they say."""

    only_first: int
    """Pairs that the first judge alone ranks rightly."""
    only_second: int
    p_value: float
    """Chance of so uneven a split or a more uneven one, if either were as likely."""


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Two-sided, by the binomial distribution: min(1, 2 P(X <= the smaller)), X ~ B(n, 1/2).

    NOTE: it takes every pair for a draw of its own. Pairs of one problem share their samples, so
    the test is too sure of itself; the interval over problems is the one to go by.
    """
    from scipy.special import bdtr  # the distribution function, exact for any n

    total = only_first + only_second
    p_value = (
        1.0 if not total else min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5)))
    )
    return McNemar(only_first=only_first, only_second=only_second, p_value=p_value)
