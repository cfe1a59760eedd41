"""Cheap explanations of a head's accuracy, which it has to beat before it counts as judgement."""
