"""Compares two heads on the same samples, resampling the same problems for both."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from headtrain.evaluation.comparison.telling import TellingPair, telling_pairs
from headtrain.evaluation.results import PairResult
from headtrain.evaluation.slices.agreement import count_agreement
from headtrain.metrics.accuracies import PairTally, resample_accuracies
from headtrain.metrics.mcnemar import McNemar, mcnemar
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples, pairwise_counts
from headtrain.settings import EvaluationSettings

FIRST, SECOND = "A", "B"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two heads have in common and what not."""

    num_samples: int
    num_pairs: int
    num_problems: int
    heads: Mapping[str, PairResult]
    """Of A and B."""

    difference: PairResult
    """A minus B, over the same resamples of the problems."""

    num_both_right: int
    num_both_wrong: int
    """Neither ranks the pair rightly; a tie is not right."""

    mcnemar: McNemar
    problems_won: int
    """Problems in which A has the higher accuracy."""

    problems_lost: int
    wins: tuple[TellingPair, ...]
    """Pairs A ranks rightly and B wrongly, the most telling first."""

    losses: tuple[TellingPair, ...]

    def to_dict(self) -> dict[str, object]:
        """Return nested dicts of plain numbers, for JSON."""
        return {**asdict(self), "mcnemar": self.mcnemar._asdict()}


def compare(
    first: ScoredSamples,
    second: ScoredSamples,
    settings: EvaluationSettings,
    *,
    seed: int = 0,
    num_telling: int = 10,
) -> Comparison:
    """Compare two judges of the same samples; half of the telling pairs are wins, half losses."""
    same = np.array_equal(first.problem, second.problem) and np.array_equal(
        first.is_correct, second.is_correct
    )
    if not same:
        raise EvaluationError("the two heads must be judged on the same samples in the same order")
    counts = {name: pairwise_counts(j) for name, j in ((FIRST, first), (SECOND, second))}
    found = resample_accuracies(
        {name: PairTally.of(counted) for name, counted in counts.items()},
        rounds=settings.bootstrap_rounds,
        seed=seed,
    )
    agreement = count_agreement(first, second)
    both, only_first, only_second = (
        int(column.sum())
        for column in (agreement.both, agreement.only_first, agreement.only_second)
    )
    num_pairs = int(agreement.num_pairs.sum())
    ahead = counts[FIRST].wins - counts[SECOND].wins  # of equally many pairs
    return Comparison(
        num_samples=len(first),
        num_pairs=num_pairs,
        num_problems=len(counts[FIRST]),
        heads={name: accuracies.result(settings.confidence) for name, accuracies in found.items()},
        difference=found[FIRST].minus(found[SECOND]).result(settings.confidence),
        num_both_right=both,
        num_both_wrong=num_pairs - both - only_first - only_second,
        mcnemar=mcnemar(only_first, only_second),
        problems_won=int((ahead > 0).sum()),
        problems_lost=int((ahead < 0).sum()),
        wins=tuple(telling_pairs(first, second, (num_telling + 1) // 2)),
        losses=tuple(telling_pairs(second, first, num_telling // 2)),
    )
