"""Samples and prompts: reading, indexing, auditing and preparing datasets."""
