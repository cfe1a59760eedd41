"""Evaluation of a head: accuracies with intervals, beside shortcuts, in breakdowns."""
