"""The report of an evaluation: tables, figures, and self-contained HTML pages."""
