"""Scorers of pictures, one a file; they are found by entry point."""
