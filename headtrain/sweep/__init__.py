"""Many heads at once: a grid of settings times seeds, trained in groups and compared."""
