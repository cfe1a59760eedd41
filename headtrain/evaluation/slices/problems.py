"""Pairs by what their problem is: difficulty, language, source, number of candidates."""

import numpy as np
import numpy.typing as npt

from featurize.arrays import Ints, Strings

MOST_GROUPS = 12
NUM_BINS = 4
UNKNOWN, MIXED, OTHERS = "unknown", "mixed", "others"


def problem_values(values: Strings, problem: Ints) -> Strings:
    """The value [problems] that all samples of each problem share, by ascending problem code.

    values and problem are [samples]; None becomes "unknown", differing values "mixed".
    """
    names, code = np.unique(problem, return_inverse=True)
    texts = np.array([UNKNOWN if value is None else str(value) for value in values], dtype=object)
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.r_[True, code[order][1:] != code[order][:-1]])
    first = texts[order][starts]
    differs = np.zeros(len(names), dtype=bool)
    np.logical_or.at(differs, code, texts != first[code])
    return np.where(differs, MIXED, first)


def group_problems(values: Strings) -> dict[str, npt.NDArray[np.bool_]]:
    """The problems of each value as a mask [problems], in a sensible order.

    Numbers of more than a few kinds, such as ratings, go into ranges of about as many problems;
    of other values the most frequent are kept and the rest is "others".
    """
    kinds = set(values.tolist())
    numbers = [_to_number(value) for value in values]
    known = np.array([number for number in numbers if number is not None])
    are_numbers = len(known) and kinds - {UNKNOWN, MIXED} == {
        value for value, number in zip(values, numbers, strict=True) if number is not None
    }
    if are_numbers and len(set(known.tolist())) > MOST_GROUPS:
        return _in_ranges(values, numbers, known)
    groups = {str(value): values == value for value in sorted(kinds, key=_order)}
    if len(groups) <= MOST_GROUPS:
        return groups
    frequent = sorted(groups, key=lambda name: -int(groups[name].sum()))[: MOST_GROUPS - 1]
    kept = {name: mask for name, mask in groups.items() if name in frequent}
    rest = ~np.logical_or.reduce(list(kept.values()))
    return {**kept, OTHERS: rest}


def group_counts(counts: Ints) -> dict[str, npt.NDArray[np.bool_]]:
    """The problems by a whole number they have, such as of candidates, in ranges."""
    return group_problems(np.array([str(count) for count in counts], dtype=object))


def _in_ranges(
    values: Strings, numbers: list[float | None], known: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.bool_]]:
    edges = np.unique(np.quantile(known, np.arange(1, NUM_BINS) / NUM_BINS, method="nearest"))
    place = np.array(
        [-1 if n is None else int(np.searchsorted(edges, n, side="right")) for n in numbers]
    )
    groups = {}
    for bin_ in range(len(edges) + 1):
        mask = place == bin_
        if mask.any():
            inside = [number for number, has in zip(numbers, mask, strict=True) if has]
            low, high = min(inside), max(inside)  # type: ignore[type-var]
            groups[f"{low:g}" if low == high else f"{low:g} to {high:g}"] = mask
    for name in (UNKNOWN, MIXED):
        if (values == name).any():
            groups[name] = values == name
    return groups


def _to_number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _order(value: object) -> tuple[int, float, str]:
    number = _to_number(value)
    if value in (UNKNOWN, MIXED):
        return (2, 0.0, str(value))
    return (0, number, "") if number is not None else (1, 0.0, str(value))
