"""What is judged: the samples of a split with their scores, facts and texts."""
