"""Makes datasets in the project's sample format from what others publish."""
