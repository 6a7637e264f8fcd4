"""GenEval's rules: from detected objects to a verdict. Pure: neither network nor picture.

Source: GenEval, arXiv 2310.11513, section 3, and `evaluation/evaluate_images.py` of its repository at 16f1681.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.api import DataError
from bench.datasets.scenes.verify import Thing, relations

CONFIDENCE = 0.3
COUNTING_CONFIDENCE = 0.9
MOST_OBJECTS = 16  # of one class
# Two published options do nothing at their defaults and are left out: suppression of overlaps above 1.0, and crops of
# the unmasked picture.


@dataclass(frozen=True)
class Detection:
    """One object: its class in GenEval's words, the detector's confidence, its box and its pixels.

    box: left, top, right, bottom in pixels, the last two excluded. mask: bool (H, W).
    """

    label: str
    confidence: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None


Objects = Mapping[str, Sequence[Detection]]
# Colour names of the detections of a class.
NameColors = Callable[[str, Sequence[Detection]], Sequence[str]]


def counted(detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """By class, the at most 16 most confident detections above the threshold: 0.3, for the tag `counting` 0.9."""
    threshold = COUNTING_CONFIDENCE if tag == "counting" else CONFIDENCE
    objects: dict[str, list[Detection]] = {}
    for found in sorted(detections, key=lambda detection: -detection.confidence):
        if found.confidence > threshold and len(objects.get(found.label, ())) < MOST_OBJECTS:
            objects.setdefault(found.label, []).append(found)
    return objects


def holds(objects: Objects, claim: Mapping[str, Any], name_colors: NameColors) -> bool:
    """Whether a picture with these objects, by class and the most confident first, shows what the prompt claims.

    Of every class in `include` there are at least `count`; the `count` most confident ones have the colour named, and
    each of them stands as named to every object of the class that its position refers to. Of every class in `exclude`
    there are fewer than its `count`.

    Raises:
        DataError: a position refers to no earlier entry of `include`.
    """
    groups: list[Sequence[Detection] | None] = []
    for part in claim.get("include", ()):
        chosen = objects.get(part["class"], ())[: part["count"]]
        right = len(chosen) == part["count"]
        if right and "color" in part:
            right = all(color == part["color"] for color in name_colors(part["class"], chosen))
        if right and "position" in part:
            relation, target = part["position"]
            if not 0 <= target < len(groups):
                raise DataError(f"expected a position that refers to an earlier entry of 'include', got {dict(claim)}")
            others = groups[target]
            right = others is not None and all(relation in side(a, b) for a in chosen for b in others)
        groups.append(chosen if right else None)
    absent = all(len(objects.get(part["class"], ())) < part["count"] for part in claim.get("exclude", ()))
    return absent and all(group is not None for group in groups)


def side(a: Detection, b: Detection) -> set[str]:
    """Where `a` lies relative to `b`, by their boxes: a subset of {"left of", "right of", "above", "below"}.

    The distance of the centres, less a tenth of the summed extents, has to make up more than half of their distance.
    """
    return relations(_thing(a), _thing(b))


def _thing(found: Detection) -> Thing:
    left, top, right, bottom = found.box
    return Thing(found.label, "", (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
