"""Experiments: cells, the grid of them, the worker processes they run in, and how far they are."""
