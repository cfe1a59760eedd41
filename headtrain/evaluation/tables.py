"""An evaluation as tables: the head beside the trivial judges, and where its values lie."""

from rich.table import Table

from headtrain.evaluation.intervals import Interval
from headtrain.evaluation.results import Evaluation


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
            show_interval(judge.accuracy_over_pairs),
            show_interval(judge.accuracy_over_problems),
            f"{judge.auc:.3f}",
            style="bold" if name == "head" else None,
        )
    return table


def values_table(evaluation: Evaluation, split: str) -> Table:
    """The head's values, probabilities and decisions on every split, and train minus `split`."""
    table = Table(title="values of the head", title_justify="left", title_style="bold")
    table.add_column("")
    for name in evaluation.splits:
        table.add_column(name, justify="right")
    has_difference = split in evaluation.train_minus
    if has_difference:
        table.add_column(f"train - {split}", justify="right")
    rows: dict[str, list[str]] = {}

    def add(name: str, value: str) -> None:
        rows.setdefault(name, []).append(value)

    for result in evaluation.splits.values():
        head = result.judges["head"]
        add("accuracy over problems", show_interval(head.accuracy_over_problems))
        add("mean_correct", f"{result.values.mean_correct:.3f}")
        add("mean_incorrect", f"{result.values.mean_incorrect:.3f}")
        add("gap", show_interval(result.values.gap))
        if result.decision is not None:
            probabilities = result.decision.probabilities
            add("P(correct) of correct", f"{probabilities.mean_correct:.3f}")
            add("P(correct) of incorrect", f"{probabilities.mean_incorrect:.3f}")
            add("gap of P(correct)", show_interval(probabilities.gap))
            add("F1 (threshold of train)", f"{result.decision.f1:.3f}")
            add("F1 of calling all correct", f"{result.decision.f1_of_calling_all_correct:.3f}")
            add("calibration error (ECE)", f"{result.decision.expected_calibration_error:.3f}")
            add("Brier score", f"{result.decision.brier:.3f}")
    if has_difference:
        difference = evaluation.train_minus[split]
        add("accuracy over problems", show_interval(difference.accuracy_over_problems))
        add("gap", show_interval(difference.gap))
        add("gap of P(correct)", show_interval(difference.probability_gap))
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def show_interval(interval: Interval) -> str:
    """`0.731 [0.690, 0.772]`; without bounds where there are too few problems for any."""
    if interval.low is None or interval.high is None:
        return f"{interval.estimate:.3f}"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
