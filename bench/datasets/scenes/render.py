"""Scenes to pictures: signed distance functions, antialiased, drawn window by window. No randomness but the scene's."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import ndimage

from bench.datasets.scenes.glyphs import TABLE_HEIGHT, distance_table
from bench.datasets.scenes.layout import PICTURE
from bench.datasets.scenes.types import Item, Scene, Style
from bench.datasets.scenes.vocabulary import COLOR_TABLE, SHAPES

# Side lengths of the square windows that a shape is evaluated in; one holds any shape up to 0.8 of its side.
WINDOWS = (24, 32, 44)
# Pictures drawn at a time: few enough for the canvas to stay in the processor's cache.
CHUNK = 64
# Share of grey mixed into colours ("pale" lifts them too) and factor on them, by palette.
PALETTES = {"vivid": (0.0, 1.0, 1.0), "deep": (0.0, 1.0, 0.7), "pale": (0.45, 0.95, 1.0)}


@cache
def ink_color(name: str, palette: str) -> tuple[float, float, float]:
    """The RGB colour of a named hue in a palette, without hue shift, each channel in [0, 1]."""
    return _shifted_color(name, palette, 0.0)


def _shifted_color(name: str, palette: str, shift: float) -> tuple[float, float, float]:
    hue, chroma, value = COLOR_TABLE[name]
    mix, grey, factor = PALETTES[palette]
    sector = ((hue + shift) % 360.0) / 60.0
    channels = []
    for offset in (0.0, 4.0, 2.0):  # the HSV hexagon: red peaks at sector 0, green at 2, blue at 4
        ramp = min(max(abs((sector + offset) % 6.0 - 3.0) - 1.0, 0.0), 1.0)
        channels.append(factor * ((1 - mix) * (value - chroma + chroma * ramp) + mix * grey))
    return channels[0], channels[1], channels[2]


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape or glyph of size 1 about the origin, y down, negative inside; same shape as x.

    Exact near the edges, a bound elsewhere: enough for antialiasing.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - 0.5
    if shape == "ring":
        return np.abs(np.sqrt(x * x + y * y) - 0.365) - 0.135
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.45
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(x - 0.5, y - 0.165), np.maximum(x - 0.165, y - 0.5))
    if shape == "triangle":
        # Base at y = 0.45, apex at (0, -0.5): the slanted sides have normals (+-0.95, -0.5) / |.|.
        return np.maximum(y - 0.45, (0.95 * np.abs(x) - 0.5 * (y + 0.5)) / np.float32(np.hypot(0.95, 0.5)))
    if shape == "star":
        return _star_distance(x, y)
    return _glyph_distance(shape, x, y)


def _star_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A pentagram: the points on the inner side of at least four of its five lines."""
    largest = second = np.full_like(x, -np.inf)
    for k in range(5):
        turn = 2 * np.pi * k / 5
        side = np.float32(np.sin(turn)) * x + np.float32(np.cos(turn)) * (y - 0.03) - 0.18
        second = np.maximum(second, np.minimum(largest, side))
        largest = np.maximum(largest, side)
    return second


def _glyph_distance(glyph: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    table = distance_table(glyph)
    rows = y * TABLE_HEIGHT + (table.shape[0] - 1) / 2
    columns = x * TABLE_HEIGHT + (table.shape[1] - 1) / 2
    return ndimage.map_coordinates(table, [rows, columns], order=1, mode="nearest", output=np.float32)


def _coverage(shape: str, items: Sequence[Item], window: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of every pixel of its window that an item covers, (N, window, window), and the windows' corners (N, 2)."""
    place = np.array([(i.x, i.y, i.size, np.radians(i.angle)) for i in items], np.float32)
    corner = np.floor(place[:, :2]).astype(int) - window // 2
    steps = np.arange(window, dtype=np.float32) + np.float32(0.5)
    x = (corner[:, :1] + steps - place[:, :1])[:, None, :]
    y = (corner[:, 1:] + steps - place[:, 1:2])[:, :, None]
    size = place[:, 2, None, None]
    # cos and sin in float64 scalars: the same on every machine after rounding.
    cos = np.array([np.cos(np.radians(i.angle)) for i in items], np.float32)[:, None, None] / size
    sin = np.array([np.sin(np.radians(i.angle)) for i in items], np.float32)[:, None, None] / size
    distance = shape_distance(shape, cos * x - sin * y, sin * x + cos * y) * size
    return np.clip(np.float32(0.5) - distance, 0, 1), corner


def shape_coverage(item: Item) -> np.ndarray:
    """Share of every pixel of the picture that one item covers, float32 (64, 64) in [0, 1]."""
    picture = np.zeros((PICTURE, PICTURE, 3), np.float32)
    cover, corner = _coverage(item.shape, [item], WINDOWS[-1])
    _paste(picture, cover[0], corner[0], np.ones(3, np.float32))
    return picture[..., 0]


def _stroke_coverage(strokes: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_coverage` for strokes given as x, y, half length along x and y, radius: (N, 5) float32."""
    corner = np.floor(strokes[:, :2]).astype(int) - window // 2
    steps = np.arange(window, dtype=np.float32) + np.float32(0.5)
    x = (corner[:, :1] + steps - strokes[:, :1])[:, None, :]
    y = (corner[:, 1:] + steps - strokes[:, 1:2])[:, :, None]
    dx, dy, radius = (strokes[:, k, None, None] for k in (2, 3, 4))
    along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy + np.float32(1e-6)), -1, 1)
    gap = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2)
    return np.clip(np.float32(0.5) + radius - gap, 0, 1), corner


def _paste(canvas: np.ndarray, cover: np.ndarray, corner: np.ndarray, color: np.ndarray) -> None:
    """Blend a colour into one picture (64, 64, 3) through a window's coverage, in place."""
    size = cover.shape[0]
    x0, y0 = int(corner[0]), int(corner[1])
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + size, PICTURE), min(y0 + size, PICTURE)
    view = canvas[top:bottom, left:right]
    view += cover[top - y0 : bottom - y0, left - x0 : right - x0, None] * (color - view)


def _background(styles: Sequence[Style]) -> np.ndarray:
    """Flat or shaded grey with a slight tint, float32 (B, 64, 64, 3)."""
    ramp = ((np.arange(PICTURE) + 0.5) / PICTURE - 0.5).astype(np.float32)
    turn = [np.radians(s.gradient_angle) for s in styles]
    across = np.array([s.gradient * np.cos(t) for s, t in zip(styles, turn, strict=True)], np.float32)
    down = np.array([s.gradient * np.sin(t) for s, t in zip(styles, turn, strict=True)], np.float32)
    # The shading runs towards mid grey on both ends of the scale, so that it never clips.
    base = np.array([s.level + (0.12 if s.level < 0.5 else -0.12) * (s.gradient > 0) for s in styles], np.float32)
    light = base[:, None, None] + across[:, None, None] * ramp + down[:, None, None] * ramp[:, None]
    tint = np.array([(s.tint, 0.0, -s.tint) for s in styles], np.float32)
    return light[..., None] + tint[:, None, None, :]


def _draw_clutter(canvas: np.ndarray, styles: Sequence[Style]) -> None:
    """Grey dots and strokes behind the objects."""
    owners, strokes, shades = [], [], []
    for b, style in enumerate(styles):
        if style.clutter:
            draws = np.random.Generator(np.random.Philox(key=style.seed)).random((style.clutter, 6))
            owners += [b] * style.clutter
            turn, length = np.pi * draws[:, 2], np.where(draws[:, 3] < 0.5, 0.0, 9 * draws[:, 3])
            radius = np.where(length > 0, 0.9, 1.2 + 1.2 * draws[:, 4])
            x, y = PICTURE * draws[:, 0], PICTURE * draws[:, 1]
            strokes.append(np.stack([x, y, length * np.cos(turn), length * np.sin(turn), radius], 1))
            away = np.where(style.level < 0.5, 1.0, -1.0) if style.tone != "grey" else np.sign(draws[:, 5] - 0.5)
            shades.append(np.clip(style.level + away * (0.25 + 0.2 * draws[:, 5]), 0.02, 0.98))
    if not owners:
        return
    cover, corner = _stroke_coverage(np.concatenate(strokes).astype(np.float32), 24)
    for b, c, at, shade in zip(owners, cover, corner, np.concatenate(shades).astype(np.float32), strict=True):
        _paste(canvas[b], c, at, shade)


def _draw_items(canvas: np.ndarray, scenes: Sequence[Scene]) -> None:
    """All shapes and glyphs, grouped by kind and window so that each group is one evaluation."""
    groups: dict[tuple[str, int], list[tuple[int, Item]]] = defaultdict(list)
    for b, scene in enumerate(scenes):
        for item in scene.items:
            reach = item.size * (1.0 if item.shape in SHAPES else 1.15)
            window = next((w for w in WINDOWS if reach * 1.2 + 2 <= w), WINDOWS[-1])
            groups[item.shape, window].append((b, item))
    for (shape, window), members in groups.items():
        cover, corner = _coverage(shape, [item for _, item in members], window)
        for (b, item), c, at in zip(members, cover, corner, strict=True):
            style = scenes[b].style
            _paste(canvas[b], c, at, np.array(_shifted_color(item.color, style.palette, style.hue_shift), np.float32))


def _degrade(canvas: np.ndarray, styles: Sequence[Style]) -> None:
    """Contrast, blur and grain, in place."""
    contrast = np.array([s.contrast for s in styles], np.float32)
    faded = np.flatnonzero(contrast < 1)
    canvas[faded] = 0.5 + (canvas[faded] - 0.5) * contrast[faded, None, None, None]
    for sigma in {s.blur for s in styles if s.blur > 0}:
        chosen = [b for b, s in enumerate(styles) if s.blur == sigma]
        part = ndimage.gaussian_filter1d(canvas[chosen], sigma, axis=1, mode="nearest")
        canvas[chosen] = ndimage.gaussian_filter1d(part, sigma, axis=2, mode="nearest")
    for b, style in enumerate(styles):
        if style.grain > 0:
            rng = np.random.Generator(np.random.Philox(key=style.seed + 1))
            noise = rng.standard_normal((PICTURE, PICTURE, 4), np.float32) * np.float32(style.grain)
            # Mostly luminance: grain is seen as such, and chroma keeps telling objects from ground.
            canvas[b] += noise[..., :1] + np.float32(0.15) * noise[..., 1:]


def render_scenes(scenes: Sequence[Scene]) -> np.ndarray:
    """Pictures of the scenes, uint8 (B, 64, 64, 3), RGB in [0, 255].

    A picture depends on its scene alone, not on the batch it is rendered in.
    """
    images = np.empty((len(scenes), PICTURE, PICTURE, 3), np.uint8)
    for start in range(0, len(scenes), CHUNK):
        images[start : start + CHUNK] = _render_chunk(scenes[start : start + CHUNK])
    return images


def _render_chunk(scenes: Sequence[Scene]) -> np.ndarray:
    styles = [scene.style for scene in scenes]
    canvas = _background(styles)
    _draw_clutter(canvas, styles)
    _draw_items(canvas, scenes)
    _degrade(canvas, styles)
    return (np.clip(canvas, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
