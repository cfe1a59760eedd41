"""Judging a head: metrics, their uncertainty, and the shortcuts they are held against."""
