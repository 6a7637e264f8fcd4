"""Does a collection of objects satisfy a caption's metadata? GenEval's rules, made strict.

Shared by the sampler (which knows the objects) and the gold scorer (which reads them off the picture).

Source: arXiv 2310.11513, section 3 and the repository's `evaluation/evaluate_images.py`. Deviations: counts are exact
for every category (GenEval lets single_object, two_object, ... have surplus instances), since the exact reader has no
false detections to forgive; objects of classes that the caption does not name are allowed, as there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# GenEval's POSITION_THRESHOLD: the centres must differ by this share of the summed extents before a side counts.
POSITION_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: what it is (shape or glyph), its colour name, its centre and its extents in pixels."""

    kind: str
    color: str
    x: float
    y: float
    width: float
    height: float


def relations(a: Thing, b: Thing) -> set[str]:
    """Where `a` lies relative to `b`: a subset of {"left of", "right of", "above", "below"}; diagonals hold two.

    Source: GenEval, `relative_position` (a margin in proportion to the extents, then a unit vector beyond +-0.5).
    """
    dx, dy = a.x - b.x, a.y - b.y
    length = (dx * dx + dy * dy) ** 0.5
    if length == 0.0:
        return set()
    across = max(abs(dx) - POSITION_MARGIN * (a.width + b.width), 0.0) / length * (1 if dx > 0 else -1)
    down = max(abs(dy) - POSITION_MARGIN * (a.height + b.height), 0.0) / length * (1 if dy > 0 else -1)
    tests = (("left of", across < -0.5), ("right of", across > 0.5), ("above", down < -0.5), ("below", down > 0.5))
    return {name for name, true in tests if true}


def checks(things: Sequence[Thing], text: str, metadata: Mapping[str, Any]) -> list[float]:
    """The single claims of a caption, each as its degree of fulfilment in [0, 1]; strict means that all are 1.

    Per included class: the count (1 - |found - wanted| / wanted, at least 0), its colour (share of the wanted number
    that has it), its position (all of both, any pair would be GenEval's rule; counts are 1 there, so they agree).
    Per excluded class: fewer than the given count. For a text: equality.
    """
    result: list[float] = []
    groups: list[list[Thing]] = []
    for part in metadata.get("include", ()):
        wanted = part["count"]
        found = [thing for thing in things if thing.kind == part["class"]]
        result.append(max(0.0, 1.0 - abs(len(found) - wanted) / wanted))
        if "color" in part:
            right = sum(thing.color == part["color"] for thing in found)
            result.append(min(right, wanted) / wanted)
        if "position" in part:
            relation, target = part["position"]
            pairs = [(a, b) for a in found for b in groups[target]]
            result.append(float(bool(pairs) and all(relation in relations(a, b) for a, b in pairs)))
        groups.append(found)
    for part in metadata.get("exclude", ()):
        result.append(float(sum(thing.kind == part["class"] for thing in things) < part["count"]))
    if "text" in metadata:
        result.append(float(text == metadata["text"]))
    return result
