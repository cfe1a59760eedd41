"""Subsets of the pairs: by attributes of the problem, by length difference, and minimal pairs."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np

from featurize.arrays import Bools, Floats, Ints, Strings
from headtrain.evaluation.numbers import accuracy_intervals
from headtrain.evaluation.results import HEAD, Slice
from headtrain.evaluation.split import MeasuredSplit
from headtrain.metrics.bootstrap import resample_accuracies
from headtrain.metrics.pairs import (
    Pairs,
    drop_equal,
    length_difference_edges,
    tally_length_differences,
)
from headtrain.metrics.pairwise import PairTally, ScoredSamples

MOST_GROUPS = 12
NUM_RANGES = 4
UNKNOWN, MIXED, OTHERS = "unknown", "mixed", "others"

MOST_OF_A_LABEL = 32
"""Samples of each label compared in one problem; more are sampled down."""


def measure_slice(
    name: str, tallies: Mapping[str, PairTally], split: MeasuredSplit
) -> Slice | None:
    """Measure judges on a subset of the pairs; None if it is empty."""
    first = next(iter(tallies.values()))
    if not first.total:
        return None
    settings = split.settings
    found = resample_accuracies(tallies, rounds=settings.bootstrap_rounds, seed=split.stream)
    return Slice(
        name=name,
        num_pairs=first.total,
        num_problems=first.num_problems,
        judges={
            judge: accuracy_intervals(accuracies, settings.confidence)
            for judge, accuracies in found.items()
        },
    )


def by_length_difference(split: MeasuredSplit, seed: int) -> tuple[Slice, ...]:
    """Break down the head's accuracy by how many tokens longer the correct output is."""
    edges = length_difference_edges(split.head, seed=seed)
    tallies = tally_length_differences(split.head, edges)
    bounds = pairwise([None, *edges.tolist(), None])
    slices = [
        measure_slice(_range_name(low, high), {HEAD: tally}, split)
        for (low, high), tally in zip(bounds, tallies, strict=True)
    ]
    return tuple(part for part in slices if part is not None)


def by_problem(split: MeasuredSplit) -> dict[str, tuple[Slice, ...]]:
    """Break down all judges' accuracy by attributes of the problem and number of candidates.

    Attributes that are None for every sample are left out.
    """
    head, counts = split.head, split.counts[HEAD]
    has_pairs = np.isin(np.unique(head.problem), counts.problem)  # [problems]
    groups = {
        name: group_problems(problem_values(values, head.group)[has_pairs])
        for name, values in split.samples.attributes.items()
        if any(value is not None for value in values)
    }
    groups["candidates"] = group_counts(np.bincount(head.group)[has_pairs])
    return {
        name: tuple(
            part
            for kind, mask in kinds.items()
            if (part := measure_slice(kind, _masked(split.counts, mask), split)) is not None
        )
        for name, kinds in groups.items()
    }


def problem_values(values: Strings, group: Ints) -> Strings:
    """Get the value that all samples of each problem share, [problems].

    values are [samples]; None becomes "unknown", different values become "mixed".
    """
    texts = np.array([UNKNOWN if value is None else str(value) for value in values], dtype=object)
    _, first = np.unique(group, return_index=True)
    differs = np.zeros(len(first), dtype=bool)
    np.logical_or.at(differs, group, texts != texts[first][group])
    return np.where(differs, MIXED, texts[first])


def group_problems(values: Strings) -> dict[str, Bools]:
    """Group problems by value; each group is a mask, [problems].

    More than 12 different numbers, such as ratings, become ranges with about equally many
    problems. Of other values the most frequent are kept and the rest become "others".
    """
    kinds = sorted(set(values.tolist()), key=_sort_key)
    numbers = np.array([_to_number(value) for value in values])  # NaN if none
    names = (UNKNOWN, MIXED)
    are_numbers = all(kind in names or np.isfinite(_to_number(kind)) for kind in kinds)
    if are_numbers and len(set(numbers[np.isfinite(numbers)].tolist())) > MOST_GROUPS:
        rest = {name: values == name for name in names if name in kinds}
        return _ranges(numbers) | rest
    groups = {str(kind): values == kind for kind in kinds}
    if len(groups) <= MOST_GROUPS:
        return groups
    frequent = sorted(groups, key=lambda name: -int(groups[name].sum()))[: MOST_GROUPS - 1]
    kept = {name: mask for name, mask in groups.items() if name in frequent}
    return {**kept, OTHERS: ~np.logical_or.reduce(list(kept.values()))}


def group_counts(counts: Ints) -> dict[str, Bools]:
    """Group problems by a count, such as of candidates."""
    return group_problems(np.array([str(count) for count in counts], dtype=object))


def _ranges(numbers: Floats) -> dict[str, Bools]:
    known = numbers[np.isfinite(numbers)]
    edges = np.unique(np.quantile(known, np.arange(1, NUM_RANGES) / NUM_RANGES, method="nearest"))
    place = np.where(np.isfinite(numbers), np.searchsorted(edges, numbers, side="right"), -1)
    groups = {}
    for bin_ in np.unique(place[place >= 0]):
        inside = numbers[place == bin_]
        low, high = inside.min(), inside.max()
        groups[f"{low:g}" if low == high else f"{low:g} to {high:g}"] = place == bin_
    return groups


def _to_number(value: object) -> float:
    """The finite number that a text spells, else NaN."""
    try:
        number = float(str(value))
    except ValueError:
        return np.nan
    return number if np.isfinite(number) else np.nan


def _sort_key(value: object) -> tuple[int, float, str]:
    """Numbers by size, then names, then unknown and mixed."""
    number = _to_number(value)
    if np.isfinite(number):
        return (0, number, str(value))
    return (2 if value in (UNKNOWN, MIXED) else 1, 0.0, str(value))


def _masked(tallies: Mapping[str, PairTally], mask: Bools) -> dict[str, PairTally]:
    return {
        name: PairTally(wins=tally.wins[mask], num_pairs=tally.num_pairs[mask])
        for name, tally in tallies.items()
    }


def _range_name(low: int | None, high: int | None) -> str:
    """Name a range of length differences, such as `-12 to -3`."""
    if low is None:
        return "all" if high is None else f"below {high}"
    if high is None:
        return f"{low} or more"
    return f"{low}" if high - low == 1 else f"{low} to {high - 1}"


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
