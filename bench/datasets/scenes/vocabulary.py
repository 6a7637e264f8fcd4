"""What the embedded world can talk about: categories, shapes, colours, glyphs, and what is held out.

The six object categories carry GenEval's tags (arXiv 2310.11513, table 1); `text` is added for text rendering.
"""

from collections.abc import Iterable, Mapping
from typing import Any

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "text")

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}

# Hue in degrees (HSV), chroma (max - min) and value of the undistorted colour. HSV hue does not change when a colour
# is mixed with grey or scaled, so palettes and contrast leave the name of a colour exact.
COLOR_TABLE = {
    "red": (0.0, 0.80, 0.90),
    "orange": (28.0, 0.82, 0.98),
    "yellow": (55.0, 0.80, 0.98),
    "green": (125.0, 0.66, 0.74),
    "cyan": (184.0, 0.74, 0.92),
    "blue": (226.0, 0.74, 0.90),
    "purple": (274.0, 0.70, 0.78),
    "pink": (326.0, 0.66, 1.00),
}
COLORS = tuple(COLOR_TABLE)

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}

# Digits and capitals that stay apart at 15 pixels: no O/0, I/1, S/5, Z/2, B/8, G/6, Q, D, F/E, R/P, M/W/V.
GLYPHS = tuple("23456789ACEHKLNPTUXY")

# Combinations that no training caption and no training picture contains. Every colour and shape is still seen
# in other company, so that what is tested is composition, not vocabulary.
HELD_OUT_COLOR_SHAPES = frozenset(
    {
        ("red", "star"),
        ("orange", "ring"),
        ("yellow", "square"),
        ("green", "cross"),
        ("cyan", "triangle"),
        ("blue", "circle"),
        ("purple", "square"),
        ("pink", "cross"),
    }
)
HELD_OUT_COUNT_SHAPES = frozenset({(2, "cross"), (3, "triangle"), (4, "ring"), (3, "square")})
HELD_OUT_SHAPE_PAIRS = frozenset(
    {frozenset({"circle", "cross"}), frozenset({"triangle", "star"}), frozenset({"square", "ring"})}
)
# A caption of one shape without a colour has nothing to combine, and every glyph is seen in every colour.
HELD_OUT_CATEGORIES = tuple(category for category in CATEGORIES if category not in ("single_object", "text"))


def combination_is_held_out(objects: Iterable[tuple[str, str | None]]) -> bool:
    """Say whether a collection of (shape, colour or None) pairs holds a held-out combination."""
    objects = list(objects)
    shapes = [shape for shape, _ in objects]
    kinds = set(shapes)
    return (
        any((color, shape) in HELD_OUT_COLOR_SHAPES for shape, color in objects)
        or any((shapes.count(shape), shape) in HELD_OUT_COUNT_SHAPES for shape in kinds)
        or any(pair <= kinds for pair in HELD_OUT_SHAPE_PAIRS)
    )


def is_held_out(metadata: Mapping[str, Any]) -> bool:
    """Say whether what a caption claims (metadata in GenEval's format) holds a held-out combination."""
    objects = [(part["class"], part.get("color")) for part in metadata.get("include", ()) for _ in range(part["count"])]
    return combination_is_held_out(objects)
