"""Metrics as pure functions of scores and labels: numpy arrays in, plain numbers out."""
