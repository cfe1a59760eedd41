"""The detailed results of one split: what could explain the head's accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from featurize.arrays import Floats, Ints, Strings
from headtrain.evaluation.breakdowns import by_length_difference, by_problem, measure_slice
from headtrain.evaluation.results import HALVED, HEAD, PREFIX, BestOfN, Details, Slice
from headtrain.evaluation.shortcuts.controls import measure_controls
from headtrain.evaluation.shortcuts.verdict import measure_verdict
from headtrain.evaluation.split import MeasuredSplit
from headtrain.metrics.best_of_n import (
    choose_sizes,
    halved_rates,
    majority_rates,
    mean_rates,
    oracle_rates,
    pass_rates,
)
from headtrain.metrics.bootstrap import (
    Interval,
    SumStatistic,
    ratio,
    resample_jointly,
    resample_sums,
)
from headtrain.metrics.calibration import Decision, ReliabilityBin, reliability
from headtrain.metrics.groups import group_codes
from headtrain.metrics.pairs import Pairs, list_pairs, similar_lengths, tally_pairs
from headtrain.metrics.values import rank_correlations

AUTHOR_KNOWN = "author_known"
"""The shortcut that knows who wrote an output, and the author's success on train."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleFacts:
    """What is known of the samples besides labels and scores; every column is [samples]."""

    attributes: Mapping[str, Strings] = field(default_factory=dict)
    """difficulty, language, source: text or None."""

    outputs: Ints | None = None
    """Codes of the outputs: equal codes, equal outputs."""

    authors: Strings | None = None
    """Who wrote the outputs: text or None; None if no sample has an author."""

    minimal_pairs: Pairs | None = None
    """None if there were no texts to find them."""

    prefixes: Mapping[float, Floats] = field(default_factory=dict)
    """The head's scores of prefixes by their share of an output, the last one 1; may be empty."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """What could not be found out, and why."""


def measure_details(
    split: MeasuredSplit, facts: SampleFacts, decision: Decision | None, seed: int
) -> Details:
    """Measure controls, verdict, breakdowns and best of n of a split."""
    left_out = dict(facts.left_out)
    if num_equal := split.head.num_equal_pairs:
        left_out["equal_pairs"] = f"{num_equal:,} pairs have the same tokens on both sides"
    matched = _length_matched(split)
    if matched is None:
        left_out["length_matched"] = "no two outputs of a problem are of about one length"
    minimal = _minimal_pairs(split, facts.minimal_pairs)
    if minimal is None and facts.minimal_pairs is not None:
        left_out["minimal_pairs"] = "no two outputs of a problem are a small edit apart"
    return Details(
        controls=measure_controls(split, seed),
        verdict=measure_verdict(split),
        length_correlation=_length_correlation(split),
        length_matched=matched,
        minimal_pairs=minimal,
        same_author=_same_author(split, facts.authors),
        author_prior_wrong=_author_prior_wrong(split),
        breakdowns={
            **by_problem(split, facts.attributes),
            "length_difference": by_length_difference(split, seed),
            **_by_prefix(split, facts.prefixes),
        },
        best_of_n=_best_of_n(split, facts, left_out, seed),
        reliability=_reliability(split, decision),
        left_out=left_out,
    )


def _length_correlation(split: MeasuredSplit) -> Interval | None:
    correlations = rank_correlations(split.head)
    if not len(correlations):
        return None
    columns = np.stack([correlations, np.ones(len(correlations))], axis=1)
    sums = resample_sums(columns, rounds=split.settings.bootstrap_rounds, seed=split.stream)
    return sums.apply(ratio(0, 1)).interval(split.settings.confidence)


def _length_matched(split: MeasuredSplit) -> Slice | None:
    tolerance = split.settings.length_tolerance
    keep = similar_lengths(tolerance, split.head.output_tokens)
    tallies = tally_pairs(split.judges, map(keep, list_pairs(split.head)))
    return measure_slice(f"lengths within {tolerance:.0%}", tallies, split)


def _same_author(split: MeasuredSplit, authors: Strings | None) -> Slice | None:
    """Measure the pairs whose outputs have the same author, where the author says nothing."""
    if authors is None:
        return None
    names, codes = np.unique([author or "" for author in authors], return_inverse=True)
    is_known = names[codes] != ""

    def keep(pairs: Pairs) -> Pairs:
        is_same = codes[pairs.correct] == codes[pairs.incorrect]
        return pairs.take(is_same & is_known[pairs.correct])

    tallies = tally_pairs(split.judges, map(keep, list_pairs(split.head)))
    return measure_slice("same author", tallies, split)


def _author_prior_wrong(split: MeasuredSplit) -> Slice | None:
    """Measure the pairs whose incorrect output has the more successful author."""
    if AUTHOR_KNOWN not in split.judges:
        return None
    prior = split.judges[AUTHOR_KNOWN].scores

    def keep(pairs: Pairs) -> Pairs:
        return pairs.take(prior[pairs.correct] < prior[pairs.incorrect])

    tallies = tally_pairs(split.judges, map(keep, list_pairs(split.head)))
    return measure_slice("incorrect output of the more successful author", tallies, split)


def _minimal_pairs(split: MeasuredSplit, pairs: Pairs | None) -> Slice | None:
    if pairs is None:
        return None
    name = f"edits within {split.settings.minimal_edit:.0%} of the characters"
    return measure_slice(name, tally_pairs(split.judges, [pairs]), split)


def _by_prefix(
    split: MeasuredSplit, prefixes: Mapping[float, Floats]
) -> dict[str, tuple[Slice, ...]]:
    """Measure the head on all pairs, as it scores prefixes of the outputs; empty without any."""
    slices = []
    for share, scores in prefixes.items():
        tallies = tally_pairs({HEAD: split.head.with_scores(scores)}, list_pairs(split.head))
        slices.append(measure_slice(f"first {share:.0%}", tallies, split))
    found = tuple(part for part in slices if part is not None)
    return {PREFIX: found} if found else {}


def _half(prefixes: Mapping[float, Floats]) -> Floats | None:
    """The scores of the longest prefixes of at most half of the outputs."""
    shares = [share for share in prefixes if share <= 0.5]
    return prefixes[max(shares)] if shares else None


def _reliability(split: MeasuredSplit, decision: Decision | None) -> tuple[ReliabilityBin, ...]:
    if decision is None:
        return ()
    probability = decision.calibration.probability(split.head.scores)
    return tuple(reliability(probability, split.head.is_correct))


def _best_of_n(
    split: MeasuredSplit, facts: SampleFacts, left_out: dict[str, str], seed: int
) -> BestOfN:
    """Resample the pass rates over the problems that have enough candidates."""
    num_candidates = np.bincount(split.head.group)
    sizes = choose_sizes(num_candidates)
    is_kept = num_candidates >= sizes[-1]
    rates = _pass_rates(split, facts.outputs, sizes, left_out, seed)
    if (half := _half(facts.prefixes)) is not None:
        rates[HALVED] = halved_rates(split.head, half, sizes, seed=seed)
    ones = np.ones(int(is_kept.sum()))
    found = resample_jointly(
        {
            f"{picker} {n}": SumStatistic(np.stack([rate[is_kept, k], ones], axis=1), ratio(0, 1))
            for picker, rate in rates.items()
            for k, n in enumerate(sizes)
        },
        rounds=split.settings.bootstrap_rounds,
        seed=split.stream,
    )
    confidence = split.settings.confidence
    return BestOfN(
        num_problems=int(is_kept.sum()),
        num_problems_left_out=int((~is_kept).sum()),
        n=sizes,
        pickers={
            picker: tuple(found[f"{picker} {n}"].interval(confidence) for n in sizes)
            for picker in rates
        },
    )


def _pass_rates(
    split: MeasuredSplit,
    outputs: Ints | None,
    sizes: tuple[int, ...],
    left_out: dict[str, str],
    seed: int,
) -> dict[str, Floats]:
    """Pass rates by picker, [problems, sizes] each."""
    head = split.head
    shortest = head.with_scores(-head.output_tokens.astype(np.float64))
    rates = {
        HEAD: pass_rates(head, sizes),
        "any": mean_rates(head, sizes),
        "oracle": oracle_rates(head, sizes),
        "shortest": pass_rates(shortest, sizes),
    }
    if "logprob_mean" in split.judges:
        rates["likeliest"] = pass_rates(split.judges["logprob_mean"], sizes)
    if outputs is None or _are_distinct(head.group, outputs):
        left_out["best_of_n/majority"] = "no two outputs of a problem are the same"
    else:
        rates["majority"] = majority_rates(head, outputs, sizes, seed=seed)
    return rates


def _are_distinct(group: Ints, outputs: Ints) -> bool:
    return int(group_codes(group, outputs).max()) + 1 == len(group)
