"""An evaluation as tables: the head beside the trivial judges, and where its values lie."""

from collections.abc import Callable

from rich.table import Table

from headtrain.evaluation.results import DecisionResult, Evaluation, SplitResult
from headtrain.evaluation.shortcuts.verdict import verdict_sentence
from headtrain.metrics.bootstrap import Interval


def judges_table(evaluation: Evaluation, split: str) -> Table:
    """Pairwise accuracy of every judge on one split, with its interval."""
    counts = evaluation.splits[split].counts
    level = f"{evaluation.confidence:.0%}"
    table = Table(
        title=f"{split}: {counts.num_pairs:,} pairs of {counts.num_problems:,} problems"
        f" ({counts.num_samples:,} samples, {counts.num_samples_left_out:,} in no pair)",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("judge")
    for name in (f"accuracy over pairs ({level})", f"over problems ({level})", "AUC"):
        table.add_column(name, justify="right")
    for name, judge in evaluation.splits[split].judges.items():
        table.add_row(
            name.replace("_", " "),
            str(judge.accuracy_over_pairs),
            str(judge.accuracy_over_problems),
            f"{judge.auc.estimate:.3f}",
            style="bold" if name == "head" else None,
        )
    details = evaluation.details.get(split)
    for name, control in details.controls.items() if details else ():
        state = "must be 0.5" if control.holds else "must be 0.5 and IS NOT"
        table.add_row(
            f"{name.replace('_', ' ')} ({state})",
            str(control.result.accuracy_over_pairs),
            str(control.result.accuracy_over_problems),
            "-",
            style="dim" if control.holds else "red",
        )
    return table


def values_table(evaluation: Evaluation, split: str) -> Table:
    """The head's values, probabilities and decisions on every split, and train minus `split`."""
    table = Table(title="values of the head", title_justify="left", title_style="bold")
    table.add_column("")
    for name in evaluation.splits:
        table.add_column(name.replace("_", " "), justify="right")
    difference = evaluation.train_minus.get(split)
    if difference is not None:
        table.add_column(f"train - {split}", justify="right")

    def add(name: str, of: Callable[[SplitResult], Interval | None], last: str = "") -> None:
        cells = [_show(of(result)) for result in evaluation.splits.values()]
        table.add_row(name, *cells, *([] if difference is None else [last]))

    def between(field: str) -> str:
        return "" if difference is None else str(getattr(difference, field))

    add("accuracy over pairs", lambda r: r.judges["head"].accuracy_over_pairs,
        between("accuracy_over_pairs"))  # fmt: skip
    add("accuracy over problems", lambda r: r.judges["head"].accuracy_over_problems,
        between("accuracy_over_problems"))  # fmt: skip
    add("mean_correct", lambda r: r.values.mean_correct)
    add("mean_incorrect", lambda r: r.values.mean_incorrect)
    add("gap", lambda r: r.values.gap, between("gap"))
    if evaluation.decision is not None:
        add("P(correct) of correct", lambda r: _decided(r).probabilities.mean_correct)
        add("P(correct) of incorrect", lambda r: _decided(r).probabilities.mean_incorrect)
        add("gap of P(correct)", lambda r: _decided(r).probabilities.gap,
            between("probability_gap"))  # fmt: skip
        add("F1 (threshold of train)", lambda r: _decided(r).f1)
        add("F1 of calling all correct", lambda r: _decided(r).f1_of_calling_all_correct)
        add("calibration error (ECE)", lambda r: _decided(r).expected_calibration_error)
        add("Brier score", lambda r: _decided(r).brier)
    add("variance between problems", lambda r: r.variance.between_problems)
    return table


def summary_lines(evaluation: Evaluation, split: str) -> list[str]:
    """The verdict and the other findings of a split, a sentence each."""
    details, judges = evaluation.details[split], evaluation.splits[split].judges
    lines = []
    if details.verdict is not None:
        lines.append(
            verdict_sentence(
                details.verdict,
                judges["head"].accuracy_over_problems.estimate,
                judges[details.verdict.best_shortcut].accuracy_over_problems.estimate,
            )
        )
    if details.length_correlation is not None:
        lines.append(
            "rank correlation of score and length within problems: "
            + str(details.length_correlation)
        )
    for title, part in (
        ("pairs of about one length", details.length_matched),
        ("minimal pairs", details.minimal_pairs),
    ):
        if part is not None:
            found = str(part.judges["head"].accuracy_over_pairs)
            lines.append(f"{title}: {found} over {part.num_pairs:,} pairs")
    if details.best_of_n is not None:
        best = details.best_of_n
        n = best.n[-1]
        picked = ", ".join(
            f"{picker} {rates[-1].estimate:.3f}" for picker, rates in best.pickers.items()
        )
        lines.append(f"pass rate of the best of {n}: {picked}")
    lines += [
        f"left out: {name.replace('_', ' ')}: {why}" for name, why in details.left_out.items()
    ]
    return lines


def _decided(result: SplitResult) -> DecisionResult:
    assert result.decision is not None, "every split has one where the evaluation has"
    return result.decision


def _show(interval: Interval | None) -> str:
    return "-" if interval is None else str(interval)
