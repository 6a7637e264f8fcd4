"""Every number of a stream is that of a generator of its own."""

from __future__ import annotations

import numpy as np
import pytest

from bench import rng


@pytest.mark.parametrize("shape", [(), (3,), (16, 8, 8)])
def test_rows_are_those_of_fresh_generators(shape: tuple[int, ...]) -> None:
    index = [5, 0, 5, 2**40]
    alone = [rng.generator(3, "z1", i).standard_normal(shape, dtype=np.float32) for i in index]
    np.testing.assert_array_equal(rng.normal(3, "z1", index, shape), np.stack(alone))
    np.testing.assert_array_equal(rng.uniform(3, "z1", index), [rng.generator(3, "z1", i).random() for i in index])


def test_nothing_asked_for_is_nothing() -> None:
    assert rng.normal(0, "z1", [], (2, 3)).shape == (0, 2, 3)
    assert rng.uniform(0, "z1", []).shape == (0,)
