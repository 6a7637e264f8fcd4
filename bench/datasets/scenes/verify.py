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


def claims(things: Sequence[Thing], text: str, metadata: Mapping[str, Any]) -> list[float]:
    """The positive claims of a caption, each as its degree of fulfilment in [0, 1].

    Per included class: the count, 1 - |found - wanted| / wanted, at least 0; its colour and its position, 1 or 0, and 0
    unless the count is right. For a text: 1 - edit distance / length, at least 0; its colour, 1 or 0, and 0
    unless it is spelt right.

    Source: the rewards that Flow-GRPO trains on, arXiv 2505.05470, section 5.1.
    """
    result: list[float] = []
    groups: list[list[Thing]] = []
    for part in metadata.get("include", ()):
        wanted = part["count"]
        found = [thing for thing in things if thing.kind == part["class"]]
        result.append(max(0.0, 1.0 - abs(len(found) - wanted) / wanted))
        if "color" in part:
            result.append(float(len(found) == wanted and all(thing.color == part["color"] for thing in found)))
        if "position" in part:
            relation, target = part["position"]
            pairs = [(a, b) for a in found for b in groups[target]]
            counted = len(found) == wanted and bool(pairs)
            result.append(float(counted and all(relation in relations(a, b) for a, b in pairs)))
        groups.append(found)
    if "text" in metadata:
        result.append(text_similarity(text, metadata["text"]))
        if "color" in metadata:
            result.append(float(result[-1] == 1.0 and all(thing.color == metadata["color"] for thing in things)))
    return result


def nothing_excluded(things: Sequence[Thing], metadata: Mapping[str, Any]) -> bool:
    """Whether every excluded class has fewer instances than its excluded count."""
    excluded = metadata.get("exclude", ())
    return all(sum(thing.kind == part["class"] for thing in things) < part["count"] for part in excluded)


def satisfies(things: Sequence[Thing], text: str, metadata: Mapping[str, Any]) -> bool:
    """Whether all that a caption claims is there, exactly, and nothing that it excludes."""
    return all(claim == 1.0 for claim in claims(things, text, metadata)) and nothing_excluded(things, metadata)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions of one character."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def text_similarity(read: str, wanted: str) -> float:
    """1 - min(edit distance, length of the wanted text) / that length, in [0, 1].

    Raises: ValueError for an empty wanted text.

    Source: Flow-GRPO's OCR reward, arXiv 2505.05470, section 5.1. Deviations: its code lowers case and drops spaces, of
    which this world has none, and forgives any surplus text around the wanted one, which a policy can exploit.
    """
    if not wanted:
        raise ValueError("the wanted text is empty: there is nothing to compare with")
    return 1.0 - min(edit_distance(read, wanted), len(wanted)) / len(wanted)
