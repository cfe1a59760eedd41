"""Evaluation of a head: accuracy with intervals, beside shortcuts, in breakdowns and comparisons."""
