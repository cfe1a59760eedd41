"""The verdict: how much of a head's accuracy the best shortcut does not explain."""

import numpy as np

from headtrain.evaluation.numbers import OVER_PROBLEMS, accuracy_intervals
from headtrain.evaluation.results import HEAD, Details, SplitResult, Verdict
from headtrain.evaluation.split import MeasuredSplit
from headtrain.metrics.bootstrap import ratio, resample_sums
from headtrain.metrics.pairs import count_agreement


def measure_verdict(split: MeasuredSplit) -> Verdict | None:
    """Compare the head with the best shortcut over the same resamples; None without shortcuts.

    NOTE: the best shortcut is chosen by its accuracy on the evaluated split itself, which favours
    the shortcut: the margin of the head is rather too small than too large.
    """
    shortcuts = {name: found for name, found in split.accuracies.items() if name != HEAD}
    if not shortcuts:
        return None
    best = max(shortcuts, key=lambda name: shortcuts[name].over_problems.estimate)
    margin = split.accuracies[HEAD].minus(shortcuts[best])
    agreement = count_agreement(split.head, split.judges[best])
    wrong = agreement.num_pairs - agreement.both - agreement.only_second
    columns = np.stack([agreement.only_first, wrong], axis=1).astype(np.float64)
    rescued = resample_sums(columns, rounds=split.settings.bootstrap_rounds, seed=split.stream)
    confidence = split.settings.confidence
    return Verdict(
        best_shortcut=best,
        margin=accuracy_intervals(margin, confidence),
        rescued=rescued.apply(ratio(0, 1)).interval_if_defined(confidence),
    )


def verdict_sentence(result: SplitResult, details: Details) -> str:
    """Put the verdict in words."""
    verdict = details.verdict
    if verdict is None:
        return "There is no shortcut to compare with."
    margin = verdict.margin[OVER_PROBLEMS.key]
    head, shortcut = (
        result.judges[name][OVER_PROBLEMS.key].estimate for name in (HEAD, verdict.best_shortcut)
    )
    name = verdict.best_shortcut.replace("_", " ")
    said = (
        f"The head orders {head:.1%} of a problem's pairs correctly, the best shortcut ({name}) "
        f"{shortcut:.1%}."
    )
    if margin.low is None or margin.high is None:
        return f"{said} A single problem cannot show whether the difference is chance."
    points = f"{100 * margin.estimate:.1f} points [{100 * margin.low:.1f}, {100 * margin.high:.1f}]"
    if margin.low > 0:
        return f"{said} The difference, {points}, is explained by none of the shortcuts tested."
    if margin.high < 0:
        return f"{said} The head is worse than the shortcut, by {points}."
    return (
        f"{said} The difference, {points}, may be chance: this split does not show that the head "
        "is better than the shortcut."
    )
