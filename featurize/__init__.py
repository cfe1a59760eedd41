"""Stage 1, from texts to features: runs the frozen language model once and stores its features."""
