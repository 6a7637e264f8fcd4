"""What stands between a reward and the harness: nothing but as many finite numbers in range as there are pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.api import NonFiniteError, PluginError, Reward
from bench.experiments.watchdog import Watchdog
from bench.scoring.scorer import Scorer
from bench.scoring.weighted_sum import WeightedSum


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
        ([{}, 0.5], PluginError, "got object"),
        ([None, 1.5], PluginError, "declares the range 0.0 to 1.0 but gave 1.5 to 1.5"),
        ([None, np.nan], NonFiniteError, "1 of 2 are NaN or infinite, the first for the prompt 'two'"),
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


class Drawing(Reward):
    """The brightness of pictures that it draws on first, in the way that it was made with."""

    name = "drawing"

    def __init__(self, draw: Callable[[np.ndarray], object]) -> None:
        self.draw = draw

    def __call__(self, images: Any, prompts: Any, metadata: Any) -> Any:
        self.draw(images)
        return images.mean((1, 2, 3)) / 255


PICTURES = np.random.Generator(np.random.Philox(5)).integers(1, 256, (2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "draw",
    [
        lambda images: images.__setitem__(0, 0),
        lambda images: np.add(images, 1, out=images),
        lambda images: images[1].fill(0),
        lambda images: images.sort(),
        lambda images: images.setflags(write=True),
    ],
)
def test_a_reward_that_draws_on_its_pictures_is_told_to_copy_them(draw: Callable[[np.ndarray], object]) -> None:
    before = PICTURES.copy()
    with pytest.raises(
        PluginError, match=r"^reward 'drawing' on 2 pictures raised .*let it draw on a copy, images.copy"
    ):
        Scorer(Drawing(draw))(PICTURES, ["", ""], [{}, {}])
    assert np.array_equal(PICTURES, before) and PICTURES.flags.writeable


def test_what_goes_past_numpy_reaches_no_neighbour() -> None:
    """A tensor over the same memory can be written; each reward has its own."""
    drawn, plain = Scorer(Drawing(lambda images: torch.from_numpy(images).zero_())), Scorer(Drawing(np.asarray))
    expected = plain(PICTURES, ["", ""], [{}, {}])
    both = WeightedSum("0.5*a+0.5*b", {"a": drawn, "b": plain})
    assert expected.min() > 0
    for scorer in (Scorer(both), both.scorers["b"]):
        assert scorer(PICTURES, ["", ""], [{}, {}]) == pytest.approx(expected / (2 if scorer.reward is both else 1))


def test_an_error_of_the_disk_is_no_advice_to_copy() -> None:
    with pytest.raises(PluginError, match=r"Read-only file system.*: mend it, then"):
        Scorer(Fixed(OSError("Read-only file system")))(PICTURES, ["", ""], [{}, {}])
