"""Tests that others made: pairs in files of their own, results in the metrics of their makers."""
