"""Several heads on the same pairs: the accuracy of each, and the difference of every two."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from headtrain.evaluation.comparison import Comparison, compare
from headtrain.evaluation.numbers import accuracy_intervals
from headtrain.evaluation.results import Accuracy
from headtrain.metrics.bootstrap import resample_accuracies
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples, pairwise_counts
from headtrain.settings import EvaluationSettings

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of heads on a page."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Several heads on the same pairs."""

    num_samples: int
    num_pairs: int
    num_problems: int
    heads: Mapping[str, Accuracy]
    """By letter."""

    differences: Mapping[str, Mapping[str, Accuracy]]
    """Row minus column, by letter, over the same resamples of the problems."""

    comparisons: Mapping[str, Comparison]
    """The first head (A there) with each other one (B there), by the other one's letter."""

    def to_dict(self) -> dict[str, object]:
        """Convert to nested dicts of plain values, for JSON."""
        compared = {name: one.to_dict() for name, one in self.comparisons.items()}
        return {**asdict(self), "comparisons": compared}


def compare_all(
    scored: Sequence[ScoredSamples],
    settings: EvaluationSettings,
    *,
    seed: int = 0,
    num_disagreements: int = 10,
) -> SideBySide:
    """Compare the scores that heads give the same samples.

    Raises:
        EvaluationError: there are more heads than letters, or no problem has both labels.
    """
    if len(scored) > len(LETTERS):
        raise EvaluationError(f"{len(scored)} heads are more than {len(LETTERS)}; give fewer")
    judges = dict(zip(LETTERS, scored, strict=False))
    counts = {name: pairwise_counts(one) for name, one in judges.items()}
    found = resample_accuracies(counts, rounds=settings.bootstrap_rounds, seed=seed)
    confidence = settings.confidence
    first = counts[LETTERS[0]]
    return SideBySide(
        num_samples=len(scored[0]),
        num_pairs=first.total,
        num_problems=first.num_problems,
        heads={name: accuracy_intervals(one, confidence) for name, one in found.items()},
        differences={
            row: {
                column: accuracy_intervals(one.minus(other), confidence)
                for column, other in found.items()
                if column != row
            }
            for row, one in found.items()
        },
        comparisons={
            name: compare(scored[0], one, settings, seed=seed, num_disagreements=num_disagreements)
            for name, one in islice(judges.items(), 1, None)
        },
    )
