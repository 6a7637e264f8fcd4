"""Captions of the embedded world: from a claim (metadata in GenEval's format) to words, and near misses of a claim."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

from bench.datasets.scenes.types import Claim, Scene, Style, Uniform
from bench.datasets.scenes.vocabulary import (
    COLORS,
    COUNT_WORDS,
    GLYPHS,
    OPPOSITE,
    PLURALS,
    RELATIONS,
    SHAPES,
    is_held_out,
)

T = TypeVar("T")

MEDIA = ("photo", "picture", "image")
OPENINGS = ("a photo of", "a picture of", "an image of", "an image showing", "")
TEXT_OPENINGS = ("a sign that says", "a sign reading", "text reading", "the text", "a photo of")
STYLE_ADJECTIVES = ("blurry", "grainy", "vivid", "pale", "dark", "faded", "clean", "sharp")
STYLE_ENDINGS = ("on a plain background", "on a cluttered background", "on a shaded background")


def pick(rng: Uniform, options: Sequence[T]) -> T:
    """One of the options, each as likely as the others."""
    return options[int(rng.random() * len(options))]


def article(noun: str) -> str:
    """The noun phrase with its indefinite article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def subject(claim: Claim) -> str:
    """The core of a caption, without opening or style: "a red circle and a blue star", "three rings", `a red "A"`."""
    if "text" in claim:
        quoted = f'"{claim["text"]}"'
        return article(f"{claim['color']} {quoted}") if "color" in claim else quoted
    parts = claim["include"]
    if claim["tag"] == "counting":
        count, shape = parts[0]["count"], parts[0]["class"]
        return f"{COUNT_WORDS[count]} {shape if count == 1 else PLURALS[shape]}"
    names = [article(f"{part['color']} {part['class']}" if "color" in part else part["class"]) for part in parts]
    if claim["tag"] == "position":
        relation = parts[1]["position"][0]
        return f"{names[1]} {relation} {names[0]}"
    return " and ".join(names)


def wordings(claim: Claim) -> list[str]:
    """Every wording of a claim without style words; the first is the plainest."""
    openings = TEXT_OPENINGS if "text" in claim else OPENINGS
    core = subject(claim)
    return [f"{opening} {core}".strip() for opening in openings]


def true_style_words(style: Style) -> tuple[list[str], list[str]]:
    """The adjectives and the endings that are true of a picture in this style."""
    adjectives = [
        name
        for name, true in (
            ("blurry", style.blur > 0),
            ("grainy", style.grain > 0),
            ("faded", style.contrast < 0.8),
            ("pale", style.palette == "pale"),
            ("vivid", style.palette == "vivid" and style.contrast > 0.9),
            ("dark", style.tone == "dark"),
            ("sharp", style.blur == 0 and style.grain == 0),
            ("clean", style.blur == 0 and style.grain == 0 and style.clutter == 0),
        )
        if true
    ]
    ground = "cluttered" if style.clutter else "shaded" if style.gradient > 0 else "plain"
    return adjectives, [f"on a {ground} background"]


def styled_wording(claim: Claim, style: Style, rng: Uniform) -> str:
    """A wording with one true style adjective, or one true ending, or both; flaws are named before virtues."""
    adjectives, endings = true_style_words(style)
    flaws = [word for word in adjectives if word in ("blurry", "grainy", "faded", "pale")]
    choices = flaws or adjectives
    where = rng.random()
    if not choices or where < 0.3:
        return f"{pick(rng, wordings(claim))} {pick(rng, endings)}"
    caption = f"a {pick(rng, choices)} {pick(rng, MEDIA)} of {subject(claim)}"
    return f"{caption} {pick(rng, endings)}" if where > 0.8 else caption


def caption_variants(scene: Scene, index: int = 0) -> list[tuple[str, Claim]]:
    """All plain wordings of what the scene's caption claims, each with that claim, starting with number `index`."""
    texts = wordings(scene.metadata)
    return [(texts[(index + k) % len(texts)], scene.metadata) for k in range(len(texts))]


@cache
def caption_words() -> frozenset[str]:
    """Every lower-case word that a caption can contain; glyph strings are spelt, one word a glyph, in quote marks."""
    sentences = [*OPENINGS, *TEXT_OPENINGS, *STYLE_ENDINGS, *RELATIONS]
    words = {"a", "an", "and", "of", *MEDIA, *STYLE_ADJECTIVES, *SHAPES, *PLURALS.values(), *COLORS}
    words.update(COUNT_WORDS.values())
    words.update(word for sentence in sentences for word in sentence.split())
    words.update(glyph.lower() for glyph in GLYPHS)
    words.add('"')
    return frozenset(words)


def object_claim(tag: str, parts: Sequence[dict[str, Any]]) -> Claim:
    """Metadata in GenEval's format; counting also excludes one more, as GenEval's does."""
    claim: Claim = {"tag": tag, "include": [dict(part) for part in parts]}
    if tag == "counting":
        claim["exclude"] = [{"class": parts[0]["class"], "count": parts[0]["count"] + 1}]
    return claim


def text_claim(text: str, color: str | None = None) -> Claim:
    """Metadata of a text caption; the colour, where one is named, is that of every glyph."""
    return {"tag": "text", "include": [], "text": text, **({"color": color} if color else {})}


def partial_claims(claim: Claim) -> list[Claim]:
    """Claims that say less and are true wherever this one is: without an object, a colour or the relation.

    Empty for categories whose captions say one thing alone.
    """
    tag, parts = claim["tag"], claim["include"]
    if "color" in claim:
        return [text_claim(claim["text"])]
    plain = [{"class": part["class"], "count": part["count"]} for part in parts]
    if tag == "colors":
        return [object_claim("single_object", plain)]
    if tag == "two_object":
        return [object_claim("single_object", [part]) for part in plain]
    if tag == "position":
        return [object_claim("two_object", plain), *(object_claim("single_object", [part]) for part in plain)]
    if tag == "color_attr":
        coloured = [object_claim("colors", [{**part}]) for part in parts]
        return [object_claim("two_object", plain), *coloured]
    return []


def _part_edits(parts: list[dict[str, Any]], others: set[str]) -> Iterator[list[dict[str, Any]]]:
    """Every change of one class or one colour."""
    for k, part in enumerate(parts):
        for shape in SHAPES:
            if shape not in others:
                yield [{**p, "class": shape} if j == k else p for j, p in enumerate(parts)]
        for color in COLORS if "color" in part else ():
            if color not in (p["color"] for p in parts):
                yield [{**p, "color": color} if j == k else p for j, p in enumerate(parts)]


def _special_edits(tag: str, parts: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The near misses peculiar to a category: swapped colours, another relation, another count."""
    if tag == "color_attr":
        a, b = parts
        yield [{**a, "color": b["color"]}, {**b, "color": a["color"]}]
    if tag == "position":
        a, b = parts
        relation = b["position"][0]
        yield [a, {**b, "position": [OPPOSITE[relation], 0]}]
        yield [{**a, "class": b["class"]}, {**b, "class": a["class"]}]
        # A sideways relation is false of a vertical pair and the reverse: layouts of this category are on an axis.
        for other in RELATIONS:
            if other not in (relation, OPPOSITE[relation]):
                yield [a, {**b, "position": [other, 0]}]
    if tag == "counting":
        for count in (parts[0]["count"] - 1, parts[0]["count"] + 1):
            if count in COUNT_WORDS:
                yield [{**parts[0], "count": count}]


def near_misses(claim: Claim, *, held_out: bool = False) -> tuple[list[Claim], list[Claim]]:
    """Claims that differ from a true one in a single respect, all false wherever it is true.

    Returns those peculiar to the category (swapped colours, flipped relation, count +-1; none for some categories)
    and those with one wrong shape, colour or glyph. Claims with held-out combinations are left out unless `held_out`.
    """
    if "text" in claim:
        text, color = claim["text"], claim.get("color")
        special = [text_claim(text, other) for other in COLORS if color and other != color]
        common = [text_claim(other, color) for other in GLYPHS if other != text]
    else:
        parts = claim["include"]
        special = [object_claim(claim["tag"], p) for p in _special_edits(claim["tag"], parts)]
        common = [object_claim(claim["tag"], p) for p in _part_edits(parts, {p["class"] for p in parts})]
    if held_out:
        return special, common
    return [c for c in special if not is_held_out(c)], [c for c in common if not is_held_out(c)]


def hard_negatives(scene: Scene, rng: Uniform, k: int) -> list[tuple[str, Claim]]:
    """`k` near-miss captions of a rightly captioned scene, with their metadata, about half of them peculiar to the
    category; they repeat only when fewer than `k` different ones exist. None holds a held-out combination.
    """
    special, common = near_misses(scene.metadata)
    pools = [pool for pool in (special, common) if pool]
    orders = [itertools.cycle(sorted(pool, key=lambda _: rng.random())) for pool in pools]
    chosen = [next(orders[(j + (rng.random() < 0.5)) % len(orders)]) for j in range(k)]
    return [(pick(rng, wordings(claim)), claim) for claim in chosen]
