"""The job of a featurize run: its counts."""

from featurize.run.job import sum_counts


def test_counts_of_units_add_up():
    assert sum_counts([]) == {}
    assert sum_counts([{"a": 1, "b": 0}, {"a": 2}, {"b": 3}]) == {"a": 3, "b": 3}
    assert sum_counts([{"a": 0}, {"a": 0}]) == {"a": 0}
