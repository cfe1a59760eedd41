"""Scoring texts without labels: the critic, and files with scores added."""
