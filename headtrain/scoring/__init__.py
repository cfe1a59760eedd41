"""Scores of files that need no labels: the same rows with what a head says of them."""
