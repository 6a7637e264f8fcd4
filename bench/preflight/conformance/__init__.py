"""Conformance: small named checks that every method and every reward has to pass."""
