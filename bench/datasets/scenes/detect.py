"""The exact reader: which objects, of which colours, a picture shows, and what its glyphs spell.

Chroma threshold, connected components, then normalised correlation with templates that are drawn by the renderer itself
and normalised by their second moments, as the components are. Nothing is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from bench.datasets.scenes.layout import PICTURE
from bench.datasets.scenes.render import ink_color, shape_coverage
from bench.datasets.scenes.types import Item
from bench.datasets.scenes.verify import Thing
from bench.datasets.scenes.vocabulary import COLORS, GLYPHS, SHAPES

KINDS = (*SHAPES, *GLYPHS)
# What a component is called that resembles no shape and no glyph, or has several hues. No caption names it.
UNKNOWN = "unknown"

# Least chroma (max - min of RGB, of 255) that belongs to an object. Backgrounds stay below 25, grain included; the
# palest faded ink lies above 60.
CHROMA = 36
# ... and the least share of the picture's highest chroma: keeps the soft edges of vivid neighbours from joining them.
CHROMA_SHARE = 0.25
# Components with less ink than this many full pixels are specks. The smallest object drawn has about 60.
SPECK = 14.0
# Least correlation with a template, after the penalty on proportions. Rendered objects lie above 0.975; halves of
# objects, objects stretched by half and merged ones below 0.83. Half a triangle passes: it is one.
MATCH = 0.85
# Penalty on a difference of log(width / height) beyond the tolerance. Correlation alone cannot see a stretched object.
STRETCH_TOLERANCE, STRETCH_PENALTY = 0.12, 0.6
# Least length of the mean hue vector: 1 for a single hue, 0.87 for halves of hues 60 degrees apart.
ONE_HUE = 0.9
# Sampling grid of a normalised component: cells per side, and half its side in standard deviations.
GRID, REACH = 22, 2.5
# Pictures read at a time, to stay in the cache.
CHUNK = 128

# 8-connected within a picture, unconnected between the pictures of the stack.
_STRUCTURE = np.zeros((3, 3, 3), bool)
_STRUCTURE[1] = True


@dataclass(frozen=True)
class Objects:
    """The notable components of a batch, one row each, in order of picture.

    picture (N,) int: which picture. kind (N,) int: index into KINDS, -1 if unknown. color (N,) int: index into COLORS.
    center (N, 2), extent (N, 2) float32: x, y and width, height in pixels. area (N,): ink in pixels. score (N,): match
    in [-1, 1] with the best template.
    """

    count: int
    picture: np.ndarray
    kind: np.ndarray
    color: np.ndarray
    center: np.ndarray
    extent: np.ndarray
    area: np.ndarray
    score: np.ndarray

    def by_picture(self) -> list[list[Thing]]:
        """The objects of every picture as the verifier takes them; an unrecognised one has kind `UNKNOWN`."""
        result: list[list[Thing]] = [[] for _ in range(self.count)]
        rows = zip(self.picture.tolist(), self.kind.tolist(), self.color.tolist(), self.center.tolist(), strict=True)
        for (b, kind, color, (x, y)), (width, height) in zip(rows, self.extent.tolist(), strict=True):
            result[b].append(Thing(KINDS[kind] if kind >= 0 else UNKNOWN, COLORS[color], x, y, width, height))
        return result


def _opponent(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two chroma axes of RGB (..., 3); the angle between them does not change when grey is mixed in."""
    red, green, blue = (rgb[..., k].astype(np.float32) for k in range(3))
    return red - (green + blue) / 2, np.float32(0.75**0.5) * (green - blue)


@cache
def _color_axes() -> np.ndarray:
    """Unit vectors of the named hues in the opponent plane, (2, colours)."""
    axes = np.stack(_opponent(np.array([ink_color(name, "vivid") for name in COLORS])))
    return axes / np.hypot(*axes)


def _normalised_crops(
    chroma: np.ndarray, labels: np.ndarray, own: np.ndarray, stats: "_Components"
) -> tuple[np.ndarray, np.ndarray]:
    """Zero-mean, unit-norm crops (N, GRID^2) in units of standard deviations, and log(width / height) (N,)."""
    steps = np.linspace(-REACH, REACH, GRID, dtype=np.float32)
    xs = stats.center[:, :1] + stats.spread[:, :1] * steps
    ys = stats.center[:, 1:] + stats.spread[:, 1:] * steps
    # One pixel of free border stands for everything outside.
    x0, y0 = (np.clip(np.floor(p), -1, PICTURE - 1).astype(np.int64) for p in (xs, ys))
    fx, fy = np.clip(xs - x0, 0, 1)[:, None, :], np.clip(ys - y0, 0, 1)[:, :, None]
    side = PICTURE + 2
    base = stats.picture[:, None, None] * side * side + (y0[:, :, None] + 1) * side + x0[:, None, :] + 1
    values = []
    flat_chroma, flat_labels = chroma.ravel(), labels.ravel()
    for shift in (0, 1, side, side + 1):
        where = base + shift
        owner = flat_labels[where]
        ink = (flat_chroma[where] - stats.ground[:, None, None]) * stats.gain[:, None, None]
        values.append(np.where((owner == 0) | (owner == own[:, None, None]), np.clip(ink, 0, 1), 0))
    top = values[0] + fx * (values[1] - values[0])
    crop = top + fy * (values[2] + fx * (values[3] - values[2]) - top)
    crop = crop.reshape(len(crop), GRID * GRID)
    crop -= crop.mean(1, keepdims=True)
    crop /= np.sqrt((crop * crop).sum(1, keepdims=True)) + np.float32(1e-6)
    return crop, np.log(stats.spread[:, 0] / stats.spread[:, 1])


@dataclass(frozen=True)
class _Components:
    """Measurements of the kept components; `gain` and `ground` turn chroma into coverage in [0, 1]."""

    picture: np.ndarray
    center: np.ndarray
    spread: np.ndarray
    area: np.ndarray
    ground: np.ndarray
    gain: np.ndarray


def _measure_components(chroma: np.ndarray, labels: np.ndarray, count: int) -> _Components:
    """First and second moments of every component of padded pictures (B, 66, 66); centres in pixel indices."""
    side = PICTURE + 2
    where = np.flatnonzero(labels)
    label, c = labels.ravel()[where] - 1, chroma.ravel()[where]
    picture = np.zeros(count, np.int64)
    picture[label] = where // (side * side)

    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(label, weights, count)

    # Mean chroma weighted towards the core, so that soft edges hardly lower it.
    level = total(c**3) / total(c**2)
    outside = labels == 0
    ground = ((chroma * outside).sum((1, 2)) / (PICTURE * PICTURE - (~outside).sum((1, 2)) + 1))[picture]
    gain = 1 / np.maximum(level - ground, 1)
    ink = np.clip((c - ground[label]) * gain[label], 0, 1)
    x, y = where % side - 1, where // side % side - 1
    area = total(ink)
    mean_x, mean_y = total(ink * x) / area, total(ink * y) / area
    spread_x = np.sqrt(np.maximum(total(ink * (x - mean_x[label]) ** 2) / area, 0.25))
    spread_y = np.sqrt(np.maximum(total(ink * (y - mean_y[label]) ** 2) / area, 0.25))
    center, spread = np.stack([mean_x, mean_y], 1), np.stack([spread_x, spread_y], 1)
    f32 = np.float32
    return _Components(picture, center.astype(f32), spread.astype(f32), area, ground.astype(f32), gain.astype(f32))


def _components(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Chroma and component labels, both padded by one pixel (B, 66, 66), and the number of components."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    chroma = np.zeros((len(images), PICTURE + 2, PICTURE + 2), np.float32)
    brightest = np.maximum(np.maximum(red, green), blue)
    chroma[:, 1:-1, 1:-1] = brightest - np.minimum(np.minimum(red, green), blue)
    labels, count = _label(chroma)
    return chroma, labels, count


def _label(chroma: np.ndarray) -> tuple[np.ndarray, int]:
    """Component labels of chroma (B, 66, 66), 0 for the ground, and their number."""
    least = np.maximum(CHROMA, CHROMA_SHARE * chroma.max((1, 2), keepdims=True))
    labels, count = ndimage.label(chroma >= least, _STRUCTURE)
    return labels, count


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops (T, GRID^2), log(width / height) (T,) and kinds (T,) of every kind in several sizes, angles and blurs."""
    coverage, kinds = [], []
    for kind, name in enumerate(KINDS):
        shape = name in SHAPES
        for size in (17.0, 22.0, 30.0) if shape else (16.0, 24.0):
            for angle in (-8.0, -4.0, 0.0, 4.0, 8.0) if shape else (-3.0, 0.0, 3.0):
                picture = shape_coverage(Item(name, COLORS[0], 32.3, 31.6, size, angle))
                coverage += [picture, ndimage.gaussian_filter(picture, 1.1)]
                kinds += [kind, kind]
    chroma = np.zeros((len(coverage), PICTURE + 2, PICTURE + 2), np.float32)
    chroma[:, 1:-1, 1:-1] = 200 * np.stack(coverage)
    labels, count = _label(chroma)
    crops, stretch = _normalised_crops(
        chroma, labels, np.arange(1, count + 1), _measure_components(chroma, labels, count)
    )
    return crops, stretch, np.array(kinds)


def _classify(crops: np.ndarray, stretch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best template's kind (N,) and its score (N,)."""
    bank, bank_stretch, kinds = _templates()
    excess = np.maximum(np.abs(stretch[:, None] - bank_stretch) - STRETCH_TOLERANCE, 0)
    scores = crops @ bank.T - STRETCH_PENALTY * excess
    best = scores.argmax(1)
    return kinds[best], scores[np.arange(len(scores)), best]


def _hues(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest colour name of every component (count,), and how far its pixels agree on one hue, in [0, 1]."""
    inner = labels[:, 1:-1, 1:-1].ravel()
    where = np.flatnonzero(inner)
    label = inner[where] - 1
    a, b = _opponent(images.reshape(-1, 3)[where])
    sums = np.stack([np.bincount(label, v, count) for v in (a, b)], 1)
    agreement = np.hypot(sums[:, 0], sums[:, 1]) / np.bincount(label, np.hypot(a, b), count)
    return (sums @ _color_axes()).argmax(1), agreement


def _detect_chunk(images: np.ndarray, offset: int) -> tuple[np.ndarray, ...]:
    chroma, labels, count = _components(images)
    if count == 0:
        none = np.zeros(0, np.int64)
        return none, none, none, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0)
    stats = _measure_components(chroma, labels, count)
    color, agreement = _hues(images, labels, count)
    keep = np.flatnonzero(stats.area >= SPECK)
    slices = ndimage.find_objects(labels)
    sides = [(slices[k][2], slices[k][1]) for k in keep]
    extent = np.array([(x.stop - x.start, y.stop - y.start) for x, y in sides], np.float32).reshape(-1, 2)
    kept = _Components(*(getattr(stats, name)[keep] for name in _Components.__dataclass_fields__))
    kind, score = _classify(*_normalised_crops(chroma, labels, keep + 1, kept))
    known = (score >= MATCH) & (agreement[keep] >= ONE_HUE)
    return kept.picture + offset, np.where(known, kind, -1), color[keep], kept.center + 0.5, extent, kept.area, score


def detect(images: np.ndarray) -> Objects:
    """Find and name the objects of pictures, uint8 (B, 64, 64, 3).

    Raises: ValueError for another shape or type.
    """
    if images.ndim != 4 or images.shape[1:] != (PICTURE, PICTURE, 3) or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 pictures (B, {PICTURE}, {PICTURE}, 3), got {images.dtype} {images.shape}")
    parts = [_detect_chunk(images[i : i + CHUNK], i) for i in range(0, max(len(images), 1), CHUNK)]
    return Objects(len(images), *(np.concatenate(column) for column in zip(*parts, strict=True)))


def spelt(things: Sequence[Thing]) -> str:
    """The glyphs of one picture from left to right; any other object among them reads as "?"."""
    return "".join(t.kind if t.kind in GLYPHS else "?" for t in sorted(things, key=lambda t: t.x))


def detect_text(images: np.ndarray) -> list[str]:
    """What the pictures, uint8 (B, 64, 64, 3), spell; see `spelt`. Empty if nothing is there."""
    return [spelt(things) for things in detect(images).by_picture()]
