"""Training a value head on cached features, resumable at every step."""
