"""Splits a dataset by problem, so that no problem is seen in training and judged on as well."""

import hashlib
from collections.abc import Iterable, Mapping


def split_problems(
    problem_ids: Iterable[str], *, fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Give every problem one split.

    The order of the problems plays no part: they are ranked by a hash of seed and id, and the
    ranking is cut at the fractions. A split of fraction 0 gets nothing.
    """
    ranked = sorted(set(problem_ids), key=lambda problem_id: _rank(problem_id, seed))
    splits: dict[str, str] = {}
    share, start = 0.0, 0
    for name, fraction in fractions.items():
        share += fraction
        stop = round(share * len(ranked)) if fraction > 0 else start
        splits.update(dict.fromkeys(ranked[start:stop], name))
        start = max(start, stop)
    return splits


def _rank(problem_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{problem_id}".encode()).digest()
