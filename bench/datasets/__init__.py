"""Worlds that methods are compared in."""
