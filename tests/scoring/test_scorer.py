"""What stands between a reward and the harness: nothing but as many finite numbers in range as there are pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.api import NonFiniteError, PluginError, Reward
from bench.experiments.watchdog import Watchdog
from bench.scoring.scorer import Scorer


class Fixed(Reward):
    """Gives what it was made with."""

    name = "fixed"

    def __init__(self, given: Any) -> None:
        self.given = given

    def __call__(self, images: Any, prompts: Any, metadata: Any) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (np.zeros(3), PluginError, r"expected 2 scores for 2 pictures, got float64 of shape \(3,\)"),
        (0.5, PluginError, r"got float64 of shape \(\)"),
        (["good", "bad"], PluginError, r"got <U4 of shape \(2,\)"),
        ([None, 0.5], PluginError, "got object"),
        ([0.5, np.nan], NonFiniteError, "1 of 2 are NaN or infinite, the first for the prompt 'two'"),
        ([0.5, 1.5], PluginError, "declares the range 0.0 to 1.0 but gave 0.5 to 1.5"),
        ([-1e-9, 0.5], PluginError, "declares the range"),
        (
            KeyError("missing"),
            PluginError,
            r"on 2 pictures raised KeyError: 'missing' \(.*test_scorer.py:\d+\)",
        ),
    ],
)
def test_what_a_reward_may_not_give(given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Scorer(Fixed(given))(np.zeros((2, 4, 4, 3), np.uint8), ["one", "two"], [{}, {}])


def test_only_a_reward_that_has_begun_and_not_ended_is_ever_overdue() -> None:
    dog = Watchdog(limit=10.0)
    for _ in range(100):
        dog.tick(1.0)
    assert dog.overdue() is None  # slow, but in no reward
    assert dog.sees({"event": "score", "reward": "fixed", "part": "one call"})
    for _ in range(9):
        dog.tick(1.0)
    assert dog.overdue() is None
    dog.sees({"event": "scored"})
    dog.sees({"event": "score", "reward": "fixed", "part": "one call"})
    dog.tick(3600.0)  # the parent itself was stopped for an hour
    assert dog.overdue() is None
    for _ in range(8):
        dog.tick(1.0)
    assert "reward 'fixed' hangs" in (dog.overdue() or "")
    dog.sees({"event": "score", "reward": "fixed", "part": "load()"})
    for _ in range(10):
        dog.tick(1.0)
    assert "reward 'fixed' hangs: load() has not ended after 10 s" in (dog.overdue() or "")
    assert not dog.sees({"event": "step"}) and dog.phase == "step"


def test_without_a_limit_nothing_is_overdue() -> None:
    dog = Watchdog(limit=None)
    dog.sees({"event": "score", "reward": "fixed", "part": "one call"})
    for _ in range(10_000):
        dog.tick(2.0)
    assert dog.overdue() is None
