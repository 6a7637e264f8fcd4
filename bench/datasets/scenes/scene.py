"""Sampling of scenes and prompts: pure functions of (stream, seed, index).

Every sample has a generator of its own, seeded by name and index, so sample i is the same whatever the batch it is
drawn in. Only `random.Random.random` is used: its sequence is guaranteed across Python versions.
"""

from __future__ import annotations

import random
from typing import Any

from bench.api import Prompt
from bench.datasets.scenes.captions import (
    caption_variants,
    caption_words,
    hard_negatives,
    near_misses,
    object_claim,
    partial_claims,
    pick,
    styled_wording,
    text_claim,
    wordings,
)
from bench.datasets.scenes.glyphs import aspect
from bench.datasets.scenes.layout import Box, place_row, place_shapes
from bench.datasets.scenes.types import Claim, Item, Scene, Style
from bench.datasets.scenes.verify import Thing, satisfies
from bench.datasets.scenes.vocabulary import (
    CATEGORIES,
    COLORS,
    COUNT_WORDS,
    GLYPHS,
    HELD_OUT_CATEGORIES,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    combination_is_held_out,
    is_held_out,
)

__all__ = [
    "Item",
    "Prompt",
    "Scene",
    "Style",
    "caption_variants",
    "caption_words",
    "hard_negatives",
    "sample_pictures",
    "sample_prompts",
    "sample_scenes",
]

STYLES = ("broad", "clean", "ugly")
SCENE_SPLITS = ("train", "held_out")
# Share of pictures whose caption also says something true of the style; prompts never do.
STYLE_WORDS_SHARE = 0.25


def _uniform(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _sample_style(rng: random.Random, kind: str) -> Style:
    """Few and bold factors. Each flaw has a share of its own in broad data; ugly pictures have all but some."""
    flaw = {"clean": 0.0, "broad": 0.15, "ugly": 0.7}[kind]
    blur, grain, clutter, faded, pale = (rng.random() < flaw for _ in range(5))
    tone = "grey" if rng.random() < (0.0 if kind == "clean" else 0.2 + flaw / 2) else pick(rng, ("light", "dark"))
    return Style(
        tone=tone,
        level={"light": 0.9, "grey": 0.52, "dark": 0.12}[tone] + _uniform(rng, -0.04, 0.04),
        tint=_uniform(rng, -0.02, 0.02),
        gradient=_uniform(rng, 0.2, 0.35) if rng.random() < 0.25 else 0.0,
        gradient_angle=pick(rng, (0.0, 90.0, 180.0, 270.0)),
        palette="pale" if pale else pick(rng, ("vivid", "vivid", "deep")),
        hue_shift=_uniform(rng, -4.0, 4.0),
        contrast=_uniform(rng, 0.55, 0.7) if faded and not pale else 1.0,
        grain=_uniform(rng, 0.05, 0.1) if grain else 0.0,
        blur=pick(rng, (0.9, 1.2)) if blur else 0.0,
        clutter=6 + int(rng.random() * 5) if clutter else 0,
        seed=int(rng.random() * 2**48),
    )


def _sample_claim(rng: random.Random, category: str) -> Claim:
    """What a caption of this category says, held-out combinations included."""
    if category == "text":
        return text_claim(pick(rng, GLYPHS), pick(rng, COLORS))
    first = pick(rng, SHAPES)
    second = pick(rng, [shape for shape in SHAPES if shape != first])
    color = pick(rng, COLORS)
    a: dict[str, Any] = {"class": first, "count": 1}
    b: dict[str, Any] = {"class": second, "count": 1}
    if category == "single_object":
        return object_claim(category, [a])
    if category == "counting":
        return object_claim(category, [{**a, "count": pick(rng, tuple(COUNT_WORDS))}])
    if category == "colors":
        return object_claim(category, [{**a, "color": color}])
    if category == "color_attr":
        other = pick(rng, [c for c in COLORS if c != color])
        return object_claim(category, [{**a, "color": color}, {**b, "color": other}])
    if category == "position":
        return object_claim(category, [a, {**b, "position": [pick(rng, RELATIONS), 0]}])
    return object_claim(category, [a, b])


def _sample_items(rng: random.Random, claim: Claim, held_out: bool) -> tuple[Item, ...]:
    """A picture of which the claim is true; without `held_out` it holds no held-out combination."""
    if "text" in claim:
        color = claim.get("color") or pick(rng, COLORS)
        boxes = place_row([aspect(glyph) for glyph in claim["text"]], rng)
        return tuple(_item(glyph, color, box) for glyph, box in zip(claim["text"], boxes, strict=True))
    parts = claim["include"]
    shapes = [part["class"] for part in parts for _ in range(part["count"])]
    relation = parts[1]["position"][0] if claim["tag"] == "position" else pick(rng, RELATIONS)
    # include[1] stands in `relation` to include[0], which comes first in the list.
    boxes = place_shapes(shapes, OPPOSITE[relation], rng, aligned=claim["tag"] == "position")
    while True:
        if claim["tag"] == "counting":
            colors = [pick(rng, COLORS)] * len(shapes)
        else:
            colors = [part.get("color") or pick(rng, COLORS) for part in parts]
        if held_out or not combination_is_held_out(zip(shapes, colors, strict=True)):
            return tuple(_item(s, c, box) for s, c, box in zip(shapes, colors, boxes, strict=True))


def _item(kind: str, color: str, box: Box) -> Item:
    return Item(kind, color, *box)


def things_of(scene: Scene) -> list[Thing]:
    """The scene's items as the verifier takes them; extents are nominal."""
    return [Thing(i.shape, i.color, i.x, i.y, i.size, i.size) for i in scene.items]


def is_true(scene: Scene, metadata: Claim) -> bool:
    """Whether a caption's metadata hold of the scene, strictly, judged from its items."""
    return satisfies(things_of(scene), scene.text, metadata)


def _claim_of_split(rng: random.Random, category: str, held_out: bool) -> Claim:
    while True:
        claim = _sample_claim(rng, category)
        if is_held_out(claim) == held_out:
            return claim


def _generator(kind: str, stream: str, seed: int, split: str, index: int) -> tuple[random.Random, str]:
    """The generator of one index, and its category; categories cycle."""
    if split not in SCENE_SPLITS:
        raise ValueError(f"split must be one of {SCENE_SPLITS}, not {split!r}")
    if index < 0:
        raise ValueError(f"sample indices start at 0, got {index}")
    categories = CATEGORIES if split == "train" else HELD_OUT_CATEGORIES
    return random.Random(f"{kind}/{stream}/{seed}/{split}/{index}"), categories[index % len(categories)]


def _false_claim(rng: random.Random, scene: Scene, held_out: bool) -> Claim:
    """The claim of a near miss or of some other scene, false of this one."""
    while True:
        if rng.random() < 0.5:
            misses = near_misses(scene.metadata, held_out=held_out)
            claim = pick(rng, pick(rng, [pool for pool in misses if pool]))
        else:
            claim = _claim_of_split(rng, pick(rng, CATEGORIES), False)
        if not is_true(scene, claim) and is_held_out(claim) <= held_out:
            return claim


def _sample_scene(
    stream: str, seed: int, index: int, split: str, wrong_share: float, partial_share: float, style_kind: str
) -> Scene:
    rng, category = _generator("scene", stream, seed, split, index)
    claim = _claim_of_split(rng, category, split == "held_out")
    items = _sample_items(rng, claim, split == "held_out")
    style = _sample_style(rng, style_kind)
    # Drawn whether used or not: a different share then changes captions only, never pictures.
    place = rng.random()
    wrong = place < wrong_share
    less = partial_claims(claim) if wrong_share <= place < wrong_share + partial_share else []
    styled = rng.random() < STYLE_WORDS_SHARE
    scene = Scene(category, items, claim.get("text", ""), style, "", claim, wrong)
    if less:
        claim = pick(rng, less)
    if wrong:
        claim = _false_claim(rng, scene, split == "held_out")
    caption = styled_wording(claim, style, rng) if styled else pick(rng, wordings(claim))
    return Scene(category, items, scene.text, style, caption, claim, wrong, bool(less))


def sample_scenes(
    stream: str,
    seed: int,
    start: int,
    count: int,
    *,
    split: str = "train",
    wrong_caption_share: float = 0.0,
    partial_caption_share: float = 0.0,
    style: str = "broad",
) -> list[Scene]:
    """Scenes number `start` to `start + count - 1` of a stream; categories take turns.

    split: "train" has no held-out combination, neither in pictures nor in captions, right or wrong; "held_out" has at
    least one in every right caption, and no `single_object`. wrong_caption_share: in [0, 1], the share that is
    captioned with a false claim, half of them near misses; partial_caption_share: that whose caption leaves something
    out, where it says more than one thing. style: "broad" (mostly fair, each flaw at 15 %), "clean"
    (no flaw) or "ugly" (each flaw at 70 %).

    Raises: ValueError for an unknown split or style, a negative index, or a share outside [0, 1].
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {STYLES}, not {style!r}")
    shares = wrong_caption_share, partial_caption_share
    if not (min(shares) >= 0.0 and sum(shares) <= 1.0):
        raise ValueError(f"wrong_caption_share and partial_caption_share must lie in [0, 1] together, got {shares}")
    indices = range(start, start + count)
    return [_sample_scene(stream, seed, i, split, *shares, style) for i in indices]


def sample_pictures(
    stream: str, seed: int, prompt: Prompt, count: int, *, wrong_share: float = 0.0, style: str = "broad"
) -> list[Scene]:
    """`count` scenes of one prompt without held-out combinations, as `sample_prompts` gave it; `index` names it.

    wrong_share: in [0, 1], the share of near misses, of which the prompt is false. style: as of `sample_scenes`.
    """
    rng = random.Random(f"pictures/{stream}/{seed}/{prompt.index}/{prompt.text}")
    found = []
    for _ in range(count):
        wrong = rng.random() < wrong_share
        while True:
            shown = pick(rng, pick(rng, [p for p in near_misses(prompt.metadata) if p])) if wrong else prompt.metadata
            items = _sample_items(rng, shown, held_out=False)
            kind, text = prompt.metadata["tag"], shown.get("text", "")
            scene = Scene(kind, items, text, _sample_style(rng, style), prompt.text, prompt.metadata, wrong)
            if is_true(scene, prompt.metadata) != wrong:
                found.append(scene)
                break
    return found


def sample_prompts(stream: str, seed: int, start: int, count: int, *, split: str = "train") -> list[Prompt]:
    """Prompts number `start` to `start + count - 1` of a stream: the wordings of `sample_scenes` without style words.

    Raises: ValueError for an unknown split or a negative index.
    """
    prompts = []
    for index in range(start, start + count):
        rng, category = _generator("prompt", stream, seed, split, index)
        claim = _claim_of_split(rng, category, split == "held_out")
        prompts.append(Prompt(index, pick(rng, wordings(claim)), claim))
    return prompts
