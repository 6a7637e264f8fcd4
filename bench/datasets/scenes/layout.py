"""Where things go: places inside the 64x64 picture that keep objects whole and at least `GAP` pixels apart."""

import math
from collections.abc import Sequence

from bench.datasets.scenes.types import Uniform

PICTURE = 64
GAP = 4.0
MARGIN = 2.0
# x, y, size (pixels), angle (degrees): the tail of an Item.
Box = tuple[float, float, float, float]
# Side lengths in pixels of one object, of two, of three or four.
SIZES = {1: (26.0, 34.0), 2: (19.0, 25.0), 3: (16.0, 20.0), 4: (16.0, 20.0)}
MAX_ANGLE = 8.0


def _uniform(rng: Uniform, low: float, high: float) -> float:
    return low + (high - low) * rng.random() if high > low else (low + high) / 2


def half_extent(shape: str, size: float, angle: float) -> float:
    """A bound of how far a rotated shape of this size reaches from its centre along an axis, in pixels."""
    if shape in ("circle", "ring"):
        return size / 2
    turn = math.radians(abs(angle))
    return size / 2 * (math.cos(turn) + math.sin(turn) * (0.9 if shape != "cross" else 0.35))


def _slots(count: int, relation: str, rng: Uniform) -> list[tuple[float, float, float, float]]:
    """Rectangles (x0, y0, x1, y1) that may be filled, in order; for two the first lies in `relation` to the second."""
    end, mid = PICTURE - MARGIN, PICTURE / 2
    low, high = mid - GAP / 2, mid + GAP / 2
    if count == 1:
        return [(MARGIN, MARGIN, end, end)]
    if count == 2:
        halves = [(MARGIN, MARGIN, low, end), (high, MARGIN, end, end)]
        if relation in ("above", "below"):
            halves = [(MARGIN, MARGIN, end, low), (MARGIN, high, end, end)]
        return halves if relation in ("left of", "above") else halves[::-1]
    cells = [(x0, y0, x1, y1) for y0, y1 in ((MARGIN, low), (high, end)) for x0, x1 in ((MARGIN, low), (high, end))]
    if count == 3:
        cells.pop(int(rng.random() * 4))
    return cells


def place_shapes(shapes: Sequence[str], relation: str, rng: Uniform, *, aligned: bool) -> list[Box]:
    """Places for one to four shapes. Of two, the first lies in `relation` to the second, on an axis if `aligned`."""
    low, high = SIZES[len(shapes)]
    boxes: list[Box] = []
    middle = _uniform(rng, 26.0, 38.0)
    for shape, (x0, y0, x1, y1) in zip(shapes, _slots(len(shapes), relation, rng), strict=True):
        size = _uniform(rng, low, high)
        angle = _uniform(rng, -MAX_ANGLE, MAX_ANGLE)
        reach = half_extent(shape, size, angle)
        room = min(x1 - x0, y1 - y0) / 2
        if reach > room:
            size, reach = size * room / reach, room
        if len(shapes) == 1:  # close to the centre, as photographs of one thing are
            x0, y0, x1, y1 = max(x0, 24 - reach), max(y0, 24 - reach), min(x1, 40 + reach), min(y1, 40 + reach)
        elif aligned and relation in ("left of", "right of"):
            y0, y1 = max(y0, middle - 3 - reach), min(y1, middle + 3 + reach)
        elif aligned:
            x0, x1 = max(x0, middle - 3 - reach), min(x1, middle + 3 + reach)
        boxes.append((_uniform(rng, x0 + reach, x1 - reach), _uniform(rng, y0 + reach, y1 - reach), size, angle))
    return boxes


def place_row(aspects: Sequence[float], rng: Uniform) -> list[Box]:
    """Places for one to three glyphs on a line, from their ratios of width to height; sizes are heights."""
    low, high = {1: (24.0, 30.0), 2: (20.0, 24.0), 3: (16.0, 18.0)}[len(aspects)]
    angle = _uniform(rng, -3.0, 3.0)
    gaps = GAP * (len(aspects) - 1)
    room = PICTURE - 2 * MARGIN - 1.0
    height = min(_uniform(rng, low, high), (room - gaps) / sum(aspects))
    width = height * sum(aspects) + gaps
    left = _uniform(rng, max(MARGIN + 0.5, 28 - width / 2), min(PICTURE - MARGIN - 0.5, 36 + width / 2) - width)
    reach = height / 2 + width / 2 * math.sin(math.radians(abs(angle))) + 1.0
    middle = _uniform(rng, max(MARGIN + reach, 26.0), min(PICTURE - MARGIN - reach, 38.0))
    boxes: list[Box] = []
    for ratio in aspects:
        x = left + height * ratio / 2
        # Counter-clockwise in a picture whose y axis points down: the right end rises.
        boxes.append((x, middle - (x - PICTURE / 2) * math.sin(math.radians(angle)), height, angle))
        left += height * ratio + GAP
    return boxes
