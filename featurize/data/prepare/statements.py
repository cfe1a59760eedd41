"""Puts problems whose statements are nearly the same into one group, and groups into splits."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from featurize.data.near_duplicates import near_duplicates, normalise


def group_problems(
    statements: Sequence[tuple[int, str]], *, num_problems: int, threshold: float, ngram: int
) -> list[list[int]]:
    """Return the groups of the problems 0 .. num_problems - 1, each in order, one by one.

    `statements` are (problem, text); a problem may have several. Problems are in one group when
    statements of theirs are near-duplicates, or those of others between them.
    """
    groups = _Groups(num_problems)
    owners: dict[str, int] = {}
    for problem, text in statements:
        groups.join(problem, owners.setdefault(normalise(text), problem))
    texts, problems = list(owners), list(owners.values())
    for first, second, _ in near_duplicates(texts, threshold=threshold, ngram=ngram):
        groups.join(problems[first], problems[second])
    return groups.to_lists()


def split_groups(
    groups: Iterable[Sequence[str]], *, shares: Mapping[str, float], rest: str, seed: int
) -> dict[str, str]:
    """Give every problem one split, those of a group the same; `groups` hold problem ids.

    Groups come in an order drawn by the seed, and go to the first split that still has room for
    all of the group; what fits into none goes to `rest`. No split gets more than its share.
    """
    ordered = sorted(groups, key=lambda group: _rank(min(group), seed))
    num_problems = sum(map(len, ordered))
    room = {split: round(share * num_problems) for split, share in shares.items()}
    splits: dict[str, str] = {}
    for group in ordered:
        chosen = next((split for split in room if len(group) <= room[split]), rest)
        if chosen != rest:
            room[chosen] -= len(group)
        splits.update(dict.fromkeys(group, chosen))
    return splits


class _Groups:
    """Disjoint sets of numbers, joined one by one (union-find with path halving)."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def join(self, first: int, second: int) -> None:
        a, b = self._root(first), self._root(second)
        self._parents[max(a, b)] = min(a, b)

    def to_lists(self) -> list[list[int]]:
        lists: dict[int, list[int]] = {}
        for number in range(len(self._parents)):
            lists.setdefault(self._root(number), []).append(number)
        return list(lists.values())

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number


def _rank(problem_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{problem_id}".encode()).digest()
