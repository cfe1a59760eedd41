"""The featurize job, on one process or hundreds: plan, workers, units of work."""
