"""Makes datasets in the project's sample format from published ones."""
