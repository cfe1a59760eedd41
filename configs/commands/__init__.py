"""The commands of critic: what each does with the settings, and what it shows."""
