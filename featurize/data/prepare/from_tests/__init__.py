"""Labelled samples from problems with unit tests, by running rewritten and mutated programs."""
