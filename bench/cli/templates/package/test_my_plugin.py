"""my_plugin keeps the contract of the harness. Install first: python -m pip install -e '.[test]'"""

from bench.conformance import assert_conforms


def test_it_keeps_the_contract() -> None:
    assert_conforms("my_plugin")  # by its name, so that the entry point is tested too
