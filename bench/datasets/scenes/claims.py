"""All claims that captions can make, and which split of prompts may state each: what one states, no other does.

Wordings and the order of parts do not count: "a star left of a ring" states what "a ring right of a star" does.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

from bench.canonical import canonical_json
from bench.datasets.scenes.captions import object_claim, text_claim
from bench.datasets.scenes.types import Claim
from bench.datasets.scenes.vocabulary import COLORS, COUNT_WORDS, GLYPHS, OPPOSITE, RELATIONS, SHAPES, is_held_out

# Shares of a category's claims; training has the rest, and every split at least one.
_SHARES = {"report": 0.3, "tune": 0.1}


def statement(claim: Claim) -> str:
    """What a claim says, the same for all its wordings and for its parts in another order."""
    if "text" in claim:
        return canonical_json(["text", claim["text"], claim.get("color")])
    parts = claim["include"]
    said = [[part["class"], part["count"], part.get("color")] for part in parts]
    if claim["tag"] != "position":
        return canonical_json([claim["tag"], sorted(said)])
    relation = parts[1]["position"][0]  # of the second to the first
    if said[0][0] > said[1][0]:
        said, relation = said[::-1], OPPOSITE[relation]
    return canonical_json([claim["tag"], said, relation])


def all_claims(category: str) -> Iterator[Claim]:
    """Every claim of a category, held-out combinations included, those that say the same once for each order."""
    if category == "text":
        for glyph, color in itertools.product(GLYPHS, (None, *COLORS)):
            yield text_claim(glyph, color)
    elif category in ("single_object", "counting", "colors"):
        for shape in SHAPES:
            for count in COUNT_WORDS if category == "counting" else (1,):
                for color in COLORS if category == "colors" else (None,):
                    yield object_claim(category, [_part(shape, count, color)])
    else:
        for first, second in itertools.permutations(SHAPES, 2):
            yield from _pairs(category, first, second)


def _part(shape: str, count: int = 1, color: str | None = None) -> dict[str, Any]:
    return {"class": shape, "count": count, **({"color": color} if color else {})}


def _pairs(category: str, first: str, second: str) -> Iterator[Claim]:
    if category == "position":
        for relation in RELATIONS:
            yield object_claim(category, [_part(first), {**_part(second), "position": [relation, 0]}])
    elif category == "color_attr":
        for one, other in itertools.permutations(COLORS, 2):
            yield object_claim(category, [_part(first, 1, one), _part(second, 1, other)])
    else:
        yield object_claim(category, [_part(first), _part(second)])


def split_of(claim: Claim) -> str:
    """The split that may state it: `train`, `tune` or `report`, or `held_out` where it holds such a combination."""
    return "held_out" if is_held_out(claim) else _splits(claim["tag"])[statement(claim)]


@cache
def stated_in(split: str, category: str) -> tuple[tuple[Claim, ...], ...]:
    """The statements of a category that a split may make, each as all claims that make it."""
    by_statement: dict[str, list[Claim]] = {}
    for claim in all_claims(category):
        if split_of(claim) == split:
            by_statement.setdefault(statement(claim), []).append(claim)
    return tuple(map(tuple, by_statement.values()))


@cache
def _splits(category: str) -> dict[str, str]:
    """The split by statement: of all in the order of their hashes, the first share reports."""
    stated = {statement(claim) for claim in all_claims(category) if not is_held_out(claim)}
    ordered = sorted(stated, key=lambda said: hashlib.blake2b(said.encode(), digest_size=8).digest())
    counts = {split: max(1, round(share * len(ordered))) for split, share in _SHARES.items()}
    names = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(ordered, [*names, *["train"] * (len(ordered) - len(names))], strict=True))
