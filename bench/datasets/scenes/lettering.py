"""Text that fits where it is drawn: lines no wider than given, and a mark for letters that a font has not."""

import re
from bisect import bisect_right
from functools import cache
from pathlib import Path

from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from bench.datasets.scenes.glyphs import font_path

Font = ImageFont.FreeTypeFont

UNKNOWN = "[?]"
_ENDING = " ..."
_BEGINNING = "..."


def plain_font(size: int) -> Font:
    """DejaVu Sans. size: pixels."""
    return ImageFont.truetype(str(font_path().with_name("DejaVuSans.ttf")), size)


def bold_font(size: int) -> Font:
    """DejaVu Sans Bold. size: pixels."""
    return ImageFont.truetype(str(font_path()), size)


def legible(text: str, font: Font) -> str:
    """The text with `UNKNOWN` for each run of letters that the font has not, which would be drawn as empty boxes.

    Spaces and joiners between two such letters belong to the run. White space is kept.
    """
    letters = _letters(Path(str(font.path)))
    marked = "".join(letter if ord(letter) in letters or letter.isspace() else "\0" for letter in text)
    return re.sub("\0(?:[\0\\s\u200d\ufe0f]*[\0\u200d\ufe0f])?", UNKNOWN, marked)


def wrapped(text: str, font: Font, width: float, lines: int) -> list[str]:
    """The text in at most so many lines, each at most `width` pixels wide; what is left out is marked by ` ...`.

    Lines break at spaces, and within a word only where the word alone is wider than a line.
    """
    rest = " ".join(text.split())
    found: list[str] = []
    while rest and len(found) < lines:
        line = _head(rest, font, width)
        if line != rest and len(found) == lines - 1:
            line = _head(rest, font, width, _ENDING) + _ENDING
        found.append(line)
        rest = rest[len(line) :].lstrip()
    return found


def cut_in_front(text: str, font: Font, width: float) -> str:
    """The text, or `...` and as much of its end as is together at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    sizes = range(len(text))
    kept = bisect_right(sizes, width, key=lambda size: font.getlength(_BEGINNING + text[len(text) - size :])) - 1
    return _BEGINNING + text[len(text) - kept :]


def _head(text: str, font: Font, width: float, ending: str = "") -> str:
    """The longest beginning of whole words that fits before the ending; of the first word as much as fits, if need be.

    It is never empty, so that a letter wider than the line is drawn all the same.
    """
    sizes = range(1, len(text) + 1)
    count = max(1, bisect_right(sizes, width, key=lambda size: font.getlength(text[:size] + ending)))
    last = len(text) if count == len(text) else text.rfind(" ", 0, count + 1)
    return text[: last if last > 0 else count]


@cache
def _letters(path: Path) -> frozenset[int]:
    """The code points that the font has."""
    return frozenset(FT2Font(str(path)).get_charmap())
