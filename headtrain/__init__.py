"""Stage 2, from cached features to a judge: pairs, value heads and their evaluation."""
