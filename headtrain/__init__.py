"""Stage 2, from cached features to a critic: pairs, value heads and their evaluation."""
