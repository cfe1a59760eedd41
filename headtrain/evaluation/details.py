"""The detailed results of one split: what could explain the head's accuracy."""

from collections.abc import Callable, Mapping

import numpy as np

from featurize.arrays import Bools, Floats, Ints
from headtrain.evaluation.breakdowns import by_length_difference, by_problem, measure_slice
from headtrain.evaluation.numbers import OVER_PAIRS, accuracy_intervals
from headtrain.evaluation.results import (
    HALVED,
    HEAD,
    PREFIX,
    BestOfN,
    Control,
    Details,
    Slice,
    Verdict,
)
from headtrain.evaluation.shortcuts import AUTHOR_KNOWN
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
    Accuracies,
    Interval,
    SumStatistic,
    ratio,
    resample_accuracies,
    resample_jointly,
    resample_sums,
)
from headtrain.metrics.calibration import ReliabilityBin, reliability
from headtrain.metrics.groups import group_codes
from headtrain.metrics.pairs import Pairs, count_agreement, list_pairs, similar_lengths, tally_pairs
from headtrain.metrics.pairwise import PairTally, ScoredSamples, pairwise_counts
from headtrain.metrics.values import rank_correlations

PROMPT_ONLY, SHUFFLED = "prompt_only", "labels_shuffled"
MOST_SHUFFLES, MOST_SHUFFLED = 20, 2_000_000
"""The accuracy is averaged over at most 20 shuffles and at most 2 million shuffled scores: one
shuffle of few samples is noisy, one of a million is not."""

SHUFFLED_CONFIDENCE = 0.999
"""Wide, so that a control does not fail by chance once in twenty evaluations."""


def measure_details(split: MeasuredSplit, seed: int) -> Details:
    """Measure controls, verdict, breakdowns and best of n of a split."""
    samples, left_out = split.samples, dict(split.samples.left_out)
    if num_equal := split.head.num_equal_pairs:
        left_out["equal_pairs"] = f"{num_equal:,} pairs have the same tokens on both sides"
    matched = _length_matched(split)
    if matched is None:
        left_out["length_matched"] = "no two outputs of a problem are of about one length"
    minimal = _minimal_pairs(split)
    if minimal is None and samples.minimal_pairs is not None:
        left_out["minimal_pairs"] = "no two outputs of a problem are a small edit apart"
    return Details(
        controls=_measure_controls(split, seed),
        verdict=_measure_verdict(split),
        length_correlation=_length_correlation(split),
        length_matched=matched,
        minimal_pairs=minimal,
        same_author=_same_author(split),
        author_prior_wrong=_author_prior_wrong(split),
        breakdowns={
            **by_problem(split),
            "length_difference": by_length_difference(split, seed),
            **_by_prefix(split),
        },
        best_of_n=_best_of_n(split, left_out, seed),
        reliability=_reliability(split),
        left_out=left_out,
    )


def _measure_controls(split: MeasuredSplit, seed: int) -> dict[str, Control]:
    """Measure judges whose accuracy must be 0.5, or the evaluation itself leaks the labels."""
    prompts = split.head.with_scores(prompt_only_scores(split.head))
    found = resample_accuracies(
        {PROMPT_ONLY: pairwise_counts(prompts), SHUFFLED: shuffled_tally(split.head, seed=seed)},
        rounds=split.settings.bootstrap_rounds,
        seed=split.stream,
    )
    results = {
        name: accuracy_intervals(one, split.settings.confidence) for name, one in found.items()
    }
    holds = {
        # every pair is a tie, so it is 0.5 exactly
        PROMPT_ONLY: results[PROMPT_ONLY][OVER_PAIRS.key].estimate == 0.5,
        SHUFFLED: _includes_chance(found[SHUFFLED]),
    }
    return {name: Control(result=results[name], holds=holds[name]) for name in results}


def prompt_only_scores(scored: ScoredSamples) -> Floats:
    """Score by the share of correct samples in the problem: the best that the prompt can tell.

    It uses the labels, so no real judge has it. It cannot order the samples of a problem.
    """
    group = scored.group
    return np.asarray((np.bincount(group, scored.is_correct) / np.bincount(group))[group])


def shuffled_tally(scored: ScoredSamples, *, seed: int) -> PairTally:
    """Tally the scores with labels shuffled within problems, the mean over several shuffles.

    The scores are shuffled instead of the labels, which is equivalent and keeps the pairs.
    """
    generator = np.random.default_rng(seed)
    num_shuffles = min(MOST_SHUFFLES, max(1, MOST_SHUFFLED // len(scored)))
    order = np.argsort(scored.problem, kind="stable")
    tallies = []
    for _ in range(num_shuffles):
        mixed = np.lexsort((generator.random(len(scored)), scored.problem))
        scores = np.empty(len(scored))
        scores[order] = scored.scores[mixed]
        tallies.append(pairwise_counts(scored.with_scores(scores)))
    wins = np.sum([tally.wins for tally in tallies], axis=0)  # whole halves: exact in any order
    return PairTally(wins=wins / num_shuffles, num_pairs=tallies[0].num_pairs)


def _includes_chance(accuracies: Accuracies) -> bool:
    wide = accuracies.over_problems.interval(SHUFFLED_CONFIDENCE)
    return wide.low is None or wide.high is None or wide.low <= 0.5 <= wide.high


def _measure_verdict(split: MeasuredSplit) -> Verdict | None:
    """Compare the head with the best shortcut over the same resamples; None without shortcuts.

    NOTE: the best shortcut is chosen by its accuracy on the evaluated split itself, which favours
    the shortcut: the margin of the head is too small rather than too large.
    """
    shortcuts = {name: found for name, found in split.accuracies.items() if name != HEAD}
    if not shortcuts:
        return None
    best = max(shortcuts, key=lambda name: shortcuts[name].over_problems.estimate)
    margin = split.accuracies[HEAD].minus(shortcuts[best])
    agreement = count_agreement(split.head, split.judges[best])
    wrong = agreement.num_pairs - agreement.both - agreement.only_second
    return Verdict(
        best_shortcut=best,
        margin=accuracy_intervals(margin, split.settings.confidence),
        rescued=_mean(split, agreement.only_first, wrong),
    )


def _mean(
    split: MeasuredSplit, numerators: Floats | Ints, denominators: Floats | Ints
) -> Interval | None:
    """Divide sums over problems, with an interval over resamples; None if it is 0 / 0."""
    columns = np.stack([numerators, denominators], axis=1).astype(np.float64)
    sums = resample_sums(columns, rounds=split.settings.bootstrap_rounds, seed=split.stream)
    return sums.apply(ratio(0, 1)).interval_if_defined(split.settings.confidence)


def _length_correlation(split: MeasuredSplit) -> Interval | None:
    correlations = rank_correlations(split.head)
    return _mean(split, correlations, np.ones(len(correlations)))


def _subset(name: str, split: MeasuredSplit, keep: Callable[[Pairs], Pairs]) -> Slice | None:
    """Measure all judges on the pairs that are kept of each chunk."""
    return measure_slice(name, tally_pairs(split.judges, map(keep, list_pairs(split.head))), split)


def _length_matched(split: MeasuredSplit) -> Slice | None:
    tolerance = split.settings.length_tolerance
    keep = similar_lengths(tolerance, split.head.output_tokens)
    return _subset(f"lengths within {tolerance:.0%}", split, keep)


def _same_author(split: MeasuredSplit) -> Slice | None:
    """Measure the pairs whose outputs have the same author, where the author says nothing."""
    if split.samples.authors is None:
        return None
    names, codes = np.unique(
        [author or "" for author in split.samples.authors], return_inverse=True
    )
    is_known: Bools = names[codes] != ""

    def keep(pairs: Pairs) -> Pairs:
        is_same = codes[pairs.correct] == codes[pairs.incorrect]
        return pairs.take(is_same & is_known[pairs.correct])

    return _subset("same author", split, keep)


def _author_prior_wrong(split: MeasuredSplit) -> Slice | None:
    """Measure the pairs whose incorrect output has the more successful author."""
    if AUTHOR_KNOWN not in split.judges:
        return None
    prior = split.judges[AUTHOR_KNOWN].scores

    def keep(pairs: Pairs) -> Pairs:
        return pairs.take(prior[pairs.correct] < prior[pairs.incorrect])

    return _subset("incorrect output of the more successful author", split, keep)


def _minimal_pairs(split: MeasuredSplit) -> Slice | None:
    pairs = split.samples.minimal_pairs
    if pairs is None:
        return None
    name = f"edits within {split.settings.minimal_edit:.0%} of the characters"
    return measure_slice(name, tally_pairs(split.judges, [pairs]), split)


def _by_prefix(split: MeasuredSplit) -> dict[str, tuple[Slice, ...]]:
    """Measure the head on all pairs, as it scores prefixes of the outputs; empty without any."""
    slices = []
    for share, scores in split.samples.prefixes.items():
        tallies = tally_pairs({HEAD: split.head.with_scores(scores)}, list_pairs(split.head))
        slices.append(measure_slice(f"first {share:.0%}", tallies, split))
    found = tuple(part for part in slices if part is not None)
    return {PREFIX: found} if found else {}


def _half(prefixes: Mapping[float, Floats]) -> Floats | None:
    """The scores of the longest prefixes of at most half of the outputs."""
    shares = [share for share in prefixes if share <= 0.5]
    return prefixes[max(shares)] if shares else None


def _reliability(split: MeasuredSplit) -> tuple[ReliabilityBin, ...]:
    if split.decision is None:
        return ()
    probability = split.decision.calibration.probability(split.head.scores)
    return tuple(reliability(probability, split.head.is_correct))


def _best_of_n(split: MeasuredSplit, left_out: dict[str, str], seed: int) -> BestOfN:
    """Resample the pass rates over the problems that have enough candidates."""
    num_candidates = np.bincount(split.head.group)
    sizes = choose_sizes(num_candidates)
    is_kept = num_candidates >= sizes[-1]
    rates = _pass_rates(split, sizes, left_out, seed)
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
    split: MeasuredSplit, sizes: tuple[int, ...], left_out: dict[str, str], seed: int
) -> dict[str, Floats]:
    """Pass rates by picker, [problems, sizes] each."""
    head, outputs = split.head, split.samples.outputs
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
    if (half := _half(split.samples.prefixes)) is not None:
        rates[HALVED] = halved_rates(head, half, sizes, seed=seed)
    return rates


def _are_distinct(group: Ints, outputs: Ints) -> bool:
    return int(group_codes(group, outputs).max()) + 1 == len(group)
