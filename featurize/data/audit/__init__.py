"""Audits of a dataset before training: labels, lengths, overlap, contradictions, tokens."""
