"""Shared fixtures: the tiny world is built once a session, and nothing asks the network or the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Shared machines stall for longer than any deadline; and a red run has to be red again.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


# Kinds of tests that start processes or train; elsewhere `@pytest.mark.slow` says so of single ones.
SLOW = ("end_to_end", "environments", "faults", "invariance", "performance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m "not slow"` leaves out these folders too."""
    for item in items:
        if item.path.parent.name in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights."""
    from tests.support.tiny_world import build_pipeline

    return build_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Encoded data of tests stays out of the user's cache, and no published checkpoint of the user's is read."""
    os.environ["BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["BENCH_WEIGHTS"] = str(tmp_path_factory.mktemp("published") / "weights")


@pytest.fixture(scope="session")
def tiny_weights(own_cache: None) -> Path:
    """`$BENCH_WEIGHTS`, filled with tiny checkpoints of the published scorers; what they were made from lies beside."""
    from tests.support.tiny_checkpoints import write_all

    weights = Path(os.environ["BENCH_WEIGHTS"])
    return write_all(weights, weights.parent / "originals")
