"""Two heads on the same pairs: which is better, how surely, and where they differ."""
