"""Splits with scores that judge as well as a test wants."""

import numpy as np

from headtrain.evaluation.evaluate import evaluate
from headtrain.evaluation.split import SplitSamples
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.settings import EvaluationSettings

SETTINGS = EvaluationSettings(bootstrap_rounds=200)


def simulated(seed, num_problems=25, strength=1.0):
    """Return a split of eight samples a problem whose scores know the label a little."""
    generator = np.random.default_rng(seed)
    num_samples = 8 * num_problems
    labels = generator.random(num_samples) < 0.5
    return ScoredSamples(
        scores=generator.normal(size=num_samples) + strength * labels,
        is_correct=labels,
        problem=np.repeat(np.arange(num_problems), 8),
        output_tokens=generator.integers(5, 200, size=num_samples),
    )


def joined(first, second):
    """Return two sets of samples as one split of separate problems."""
    return ScoredSamples(
        scores=np.concatenate([first.scores, second.scores]),
        is_correct=np.concatenate([first.is_correct, second.is_correct]),
        problem=np.concatenate([first.problem, second.problem + first.problem.max() + 1]),
        output_tokens=np.concatenate([first.output_tokens, second.output_tokens]),
    )


def evaluated(splits, shortcuts=None, *, facts=None, settings=SETTINGS, **options):
    """Evaluate scores by split; `shortcuts` and `facts`, fields of SplitSamples, are by split."""
    shortcuts, facts = shortcuts or {}, facts or {}
    samples = {
        name: SplitSamples(scored=scored, shortcuts=shortcuts.get(name, {}), **facts.get(name, {}))
        for name, scored in splits.items()
    }
    return evaluate(samples, settings, **options)


def plain_pairs(scored):
    """List all (correct, incorrect) indices of the same problem."""
    return [
        (i, j)
        for i in np.flatnonzero(scored.is_correct)
        for j in np.flatnonzero(~scored.is_correct)
        if scored.problem[i] == scored.problem[j]
    ]
