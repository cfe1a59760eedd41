"""Choosing pairs of a correct and an incorrect solution of the same problem."""
