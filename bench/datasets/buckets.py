"""Aspect buckets: the few sizes that pictures are brought to, and which of them each picture goes to.

A size is (width, height) in pixels. Sizes rise by their aspect ratio, width over height: the narrowest comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.api import ConfigError

Size = tuple[int, int]

WIDEST = 2.0  # the aspect ratio that a number of buckets reaches to, on both sides of the square


class BucketGrid(NamedTuple):
    """The sizes that a model takes: sides are multiples of `unit` pixels, and at most `largest`."""

    unit: int
    largest: int


def size_label(size: Size) -> str:
    """`80x48`, as settings have it."""
    return f"{size[0]}x{size[1]}"


def bucket_sizes(wanted: int | Sequence[str], side: int, grid: BucketGrid) -> tuple[Size, ...]:
    """The sizes of the buckets: those that were named (`80x48`), or so many of nearly the area of `side` x `side`.

    A number of buckets, which is odd, cuts the aspect ratios from 1/`WIDEST` to `WIDEST` into as many ranges, equally
    wide in their logarithm; each bucket has the middle of its range, as near as the model's grid comes to it: five are
    about 1:1.74, 1:1.32, 1:1, 1.32:1 and 1.74:1.

    Raises:
        ConfigError: a size is none that the model takes or stands there twice, or the grid is too coarse for so many.
    """
    found = [_read(text) for text in wanted] if not isinstance(wanted, int) else _spread(wanted, side, grid)
    for size in found:
        if any(n % grid.unit or not 0 < n <= grid.largest for n in size):
            raise ConfigError(
                f"data.buckets: {size_label(size)} is no size that the model takes: expected multiples of {grid.unit} "
                f"pixels, at most {grid.largest}"
            )
    if len(set(found)) < len(found):
        raise ConfigError(
            f"data.buckets: expected different sizes, got {', '.join(map(size_label, found))}"
            + (f": in steps of {grid.unit} pixels there are no {wanted}: ask for fewer" if wanted == len(found) else "")
        )
    return tuple(sorted(found, key=lambda size: size[0] / size[1]))


def nearest_buckets(shapes: Sequence[Size], choices: Sequence[Size]) -> list[Size]:
    """For each picture's (width, height) the size among `choices` whose aspect ratio is nearest in its logarithm.

    Where two are equally near, it is the narrower one.
    """
    wanted, given = (np.log([w / h for w, h in ratios]) for ratios in (choices, shapes))
    distance = np.abs(given[:, None] - wanted).round(12)  # what is equal stays equal, however its logarithm rounds
    return [choices[row] for row in distance.argmin(1)]


def assign_buckets(shapes: Sequence[Size], choices: Sequence[Size], fewest: int) -> list[Size]:
    """For each picture's (width, height) the size of its bucket.

    A bucket of fewer than `fewest` pictures is given up, the smallest one first, and its pictures go to what is nearest
    then; one bucket is left at least.
    """
    left = list(choices)
    while True:
        found = nearest_buckets(shapes, left) if shapes else []
        counts = {size: found.count(size) for size in left}
        small = [size for size in left if counts[size] < fewest]
        if not small or len(left) == 1:
            return found
        left.remove(min(small, key=counts.__getitem__))


def _read(text: str) -> Size:
    width, _, height = text.partition("x")
    return int(width), int(height)


def _spread(count: int, side: int, grid: BucketGrid) -> list[Size]:
    """The square, and as many upright sizes as lying ones, each of which is the other turned."""
    lying = []
    for step in range(1, count // 2 + 1):
        ratio = WIDEST ** (2 * step / count)
        width = grid.unit * round(side * ratio**0.5 / grid.unit)
        lying.append((width, grid.unit * round(side**2 / width / grid.unit)))
    return [*((height, width) for width, height in lying), (side, side), *lying]
