"""Tracking of runs: on an MLflow server or database, or kept until it answers."""
