"""How much of a head's accuracy is left when the best cheap explanation is taken off."""

from collections.abc import Mapping

import numpy as np

from headtrain.evaluation.results import Verdict
from headtrain.evaluation.slices.agreement import count_agreement
from headtrain.metrics.accuracies import Accuracies
from headtrain.metrics.bootstrap import ratio, resample_sums
from headtrain.metrics.pairwise import ScoredSamples


def choose_best(accuracies: Mapping[str, Accuracies]) -> str:
    """The shortcut with the highest accuracy over problems on the split itself.

    NOTE: choosing on the very split that is judged flatters the shortcut, so the head's margin
    comes out too small rather than too large.
    """
    return max(accuracies, key=lambda name: accuracies[name].over_problems.estimate)


def judge_margin(
    head: ScoredSamples,
    shortcuts: Mapping[str, ScoredSamples],
    accuracies: Mapping[str, Accuracies],
    *,
    head_accuracies: Accuracies,
    rounds: int,
    confidence: float,
    seed: list[int],
) -> Verdict:
    """Head minus the best shortcut, over the same resamples of the problems."""
    best = choose_best(accuracies)
    margin = head_accuracies.minus(accuracies[best])
    agreement = count_agreement(head, shortcuts[best])
    columns = np.stack([agreement.only_first, agreement.num_pairs - agreement.second], axis=1)
    rescued = resample_sums(columns.astype(np.float64), rounds=rounds, seed=seed)
    return Verdict(
        best_shortcut=best,
        margin=margin.result(confidence),
        rescued=rescued.apply(ratio(0, 1)).interval_if_defined(confidence),
    )


def verdict_sentence(verdict: Verdict, head: float, shortcut: float) -> str:
    """The verdict in plain words; head and shortcut are accuracies over problems."""
    margin = verdict.margin.accuracy_over_problems
    name = verdict.best_shortcut.replace("_", " ")
    said = (
        f"The head ranks {head:.1%} of a problem's pairs rightly; the best shortcut ({name}) "
        f"{shortcut:.1%}."
    )
    if margin.low is None or margin.high is None:
        return f"{said} One problem alone cannot tell whether that is chance."
    points = f"{100 * margin.estimate:.1f} points [{100 * margin.low:.1f}, {100 * margin.high:.1f}]"
    if margin.low > 0:
        return f"{said} {points} are explained by no shortcut tried here."
    if margin.high < 0:
        return f"{said} The head does worse than the shortcut, by {points}."
    return (
        f"{said} The difference, {points}, may be chance: this split does not show that the head "
        "knows more than the shortcut."
    )
