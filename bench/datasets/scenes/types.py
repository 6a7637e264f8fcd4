"""What a scene of the embedded world is made of, and the claims that its captions make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

Claim = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """A shape or a glyph: centre and size in pixels (y down), colour name, angle in degrees counter-clockwise."""

    shape: str
    color: str
    x: float
    y: float
    size: float
    angle: float


@dataclass(frozen=True, slots=True)
class Style:
    """How a scene is drawn; what makes it pretty or ugly, never what it shows.

    tone: "light", "grey" or "dark" background. level: its lightness in [0, 1]. tint: red-blue shift, |tint| <= 0.02.
    gradient: lightness change across the picture, 0 for plain. gradient_angle: degrees. palette: "vivid", "deep" or
    "pale". hue_shift: degrees, |shift| <= 5. contrast: 1 is full, smaller mixes the picture with grey.
    grain: noise deviation in [0, 0.1]. blur: Gaussian deviation in pixels, 0 for none. clutter: number of grey dots
    and strokes behind the objects. seed: of grain and clutter.
    """

    tone: str
    level: float
    tint: float
    gradient: float
    gradient_angle: float
    palette: str
    hue_shift: float
    contrast: float
    grain: float
    blur: float
    clutter: int
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows, how it is drawn, and its caption; the metadata describes the caption, right or wrong.

    category: of the picture (that of the caption is metadata["tag"]). text: what the glyphs spell, "" for shapes.
    wrong_caption: the caption is false of the picture. partial_caption: it leaves out something that it could say.
    """

    category: str
    items: tuple[Item, ...]
    text: str
    style: Style
    caption: str
    metadata: dict[str, Any]
    wrong_caption: bool = False
    partial_caption: bool = False


class Uniform(Protocol):
    """What the sampler needs of a generator: `random()` in [0, 1). Both random.Random and numpy's Generator have it."""

    def random(self) -> float: ...
