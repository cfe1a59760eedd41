"""What a dataset would teach, and what it hides, told before anything is trained on it."""
