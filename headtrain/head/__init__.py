"""The value head: its shape, its weights and its checkpoint."""
