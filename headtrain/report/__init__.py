"""The report of an evaluation: figures, and a page that needs nothing but itself."""
