"""Sweeps: heads for a grid of settings and seeds, trained together and compared."""
