"""Time of an evaluation: a million samples with all intervals, and ranks against enumeration.

    python tests/benchmarks/bench_eval.py
    python tests/benchmarks/bench_eval.py --samples 100000 --rounds 200

Scores are random numbers that depend on the label a little; the shape is that of a large dataset,
75 candidates per problem. Wins are counted by ranks and by enumeration, which must agree.
"""

import argparse
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from featurize.arrays import Floats
from headtrain.evaluation.evaluate import evaluate
from headtrain.evaluation.split import SplitSamples
from headtrain.metrics.pairs import count_agreement, list_pairs, similar_lengths, tally_pairs
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts
from headtrain.settings import EvaluationSettings
from tests.benchmarks.measuring import measure

Found = TypeVar("Found")


def make_samples(num_samples: int, num_problems: int, seed: int) -> ScoredSamples:
    """Scores that know the label and the problem."""
    generator = np.random.default_rng(seed)
    problem = generator.integers(num_problems, size=num_samples)
    labels = generator.random(num_samples) < 0.5
    level = generator.normal(size=num_problems)[problem]
    return ScoredSamples(
        scores=0.5 * labels + generator.normal(size=num_samples) + level,
        is_correct=labels,
        problem=problem,
        output_tokens=generator.integers(10, 400, size=num_samples),
    )


def make_shortcuts(scored: ScoredSamples, seed: int) -> dict[str, Floats]:
    """The shortcuts of a real evaluation, five of them."""
    generator = np.random.default_rng(seed)
    length = scored.output_tokens.astype(np.float64)
    drawn = {
        name: generator.normal(size=len(scored))
        for name in ("logprob_mean", "logprob_sum", "bag_of_ngrams")
    }
    return {"longer_is_correct": length, "shorter_is_correct": -length, **drawn}


def enumerate_wins(scored: ScoredSamples) -> Floats:
    """Wins of each problem, from a matrix of all its pairs."""
    wins = []
    order = np.argsort(scored.problem, kind="stable")
    starts = np.flatnonzero(np.diff(scored.problem[order], prepend=-1))
    for places in np.split(order, starts[1:]):
        labels = scored.is_correct[places]
        scores = scored.scores[places]
        if labels.any() and not labels.all():
            margin = scores[labels][:, None] - scores[~labels]
            wins.append((np.sign(margin) + 1).sum() / 2)
    return np.array(wins)


def timed(name: str, work: Callable[[], Found]) -> Found:
    """Do it, and say how long it took and how large the process has become."""
    took = measure(work)
    print(
        f"{name:58} {took.seconds:7.2f} s, of processor {took.cpu_seconds:6.2f} s"
        f"   peak {took.peak_bytes / 1e9:5.2f} GB",
        flush=True,
    )
    found: Found = took.found
    return found


def main() -> None:
    """Time every part, then the whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=75, help="samples a problem")
    parser.add_argument("--rounds", type=int, default=1000, help="bootstrap rounds")
    arguments = parser.parse_args()
    num_problems = max(2, arguments.samples // arguments.candidates)
    settings = EvaluationSettings(bootstrap_rounds=arguments.rounds)
    scored = make_samples(arguments.samples, num_problems, seed=0)
    shortcuts = make_shortcuts(scored, seed=1)
    print(f"{len(scored):,} samples of {num_problems:,} problems, {arguments.rounds:,} rounds")

    counts = timed("wins by ranks", lambda: pairwise_counts(scored))
    wins = timed("wins by enumeration", lambda: enumerate_wins(scored))
    assert (counts.wins == wins).all(), "ranks and enumeration disagree"
    print(f"{'':4}of {int(counts.num_pairs.sum()):,} pairs")
    few = make_samples(arguments.samples // 20, 10, seed=2)  # the same, in few huge problems
    by_ranks = timed(f"wins by ranks, {len(few):,} in 10 problems", lambda: pairwise_counts(few))
    listed = timed(f"wins by enumeration, {len(few):,} in 10 problems", lambda: enumerate_wins(few))
    assert (by_ranks.wins == listed).all(), "ranks and enumeration disagree"

    similar = similar_lengths(0.1, scored.output_tokens)
    timed(
        "pairs of similar length, one judge",
        lambda: tally_pairs({"head": scored}, map(similar, list_pairs(scored))),
    )
    other = scored.with_scores(shortcuts["bag_of_ngrams"])
    timed("pairs two judges agree on", lambda: count_agreement(scored, other))
    timed(
        "whole evaluation of one split, head and five shortcuts",
        lambda: evaluate(
            splits={"valid": scored}, shortcuts={"valid": shortcuts}, settings=settings
        ),
    )
    small = make_samples(max(500, arguments.samples // 40), max(2, num_problems // 100), seed=3)
    timed(
        "whole evaluation, that as train and a small valid",
        lambda: evaluate(
            {
                "train": SplitSamples(scored=scored, shortcuts=shortcuts),
                "valid": SplitSamples(scored=small, shortcuts=make_shortcuts(small, seed=4)),
            },
            settings,
        ),
    )


if __name__ == "__main__":
    main()
