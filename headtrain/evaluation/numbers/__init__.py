"""How good scores are, and how far each number could have come out otherwise."""
