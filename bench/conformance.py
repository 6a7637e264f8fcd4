"""The conformance checks in a test of a plugin's own:

from bench.conformance import assert_conforms

def test_conforms() -> None:
    assert_conforms(MyMethod)
"""

from __future__ import annotations

from bench.preflight.conformance.suite import assert_conforms

__all__ = ["assert_conforms"]
