"""Stage 1, from text to features: runs the frozen language model once and stores what it saw."""
