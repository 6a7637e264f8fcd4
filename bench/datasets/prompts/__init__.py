"""Prompt sets for evaluation and training: readers of the published files, and generators of our own."""
