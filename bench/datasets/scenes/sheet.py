"""Sheets of pictures with captions underneath, for the report and for looking at."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from bench.datasets.scenes.lettering import UNKNOWN, Font, bold_font, legible, plain_font, wrapped

CELL = 132
TEXT_LINES = 3
LINE = 12
GAP = 8  # pixels between pictures, and at the sheet's edges
CAPTION_SIZE, TITLE_SIZE = 10, 13  # pixels
_TITLE_LINE = 16
_HEADING = 30  # pixels of a heading with the space above it


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[str],
    columns: int,
    title: str,
    path: str | Path,
    *,
    cell: int = CELL,
    lines: int = TEXT_LINES,
    headings: Mapping[int, str] = MappingProxyType({}),
) -> Path:
    """Write a PNG with the pictures in rows, each with its caption (at most `lines` lines, shown as plain text).

    images: uint8 (N, H, W, 3), scaled to `cell` pixels without smoothing. A caption's own line breaks stay. A picture
    whose place is in `headings` starts a row, with the heading above it. Letters that the font has not are shown as
    [?], and the title says so. Returns the path; parent folders are made.

    Raises: ValueError if there is not exactly one caption for every picture, or no picture.
    """
    if len(images) != len(captions) or len(images) == 0 or columns < 1:
        raise ValueError(f"expected one caption for each of at least one picture, got {len(images)}, {len(captions)}")
    font, bold = plain_font(CAPTION_SIZE), bold_font(TITLE_SIZE)
    texts = [_lines(legible(caption, font), font, cell, lines) for caption in captions]
    if any(UNKNOWN in line for text in texts for line in text):
        title += f"; letters that the font lacks are shown as {UNKNOWN}"
    columns = min(columns, len(images))
    width = columns * (cell + GAP) + GAP
    heads = wrapped(legible(title, bold), bold, width - 2 * GAP, lines=len(title))
    rows = _rows(len(images), columns, headings)
    pitch = cell + lines * LINE + 10
    y = 10 + max(1, len(heads)) * _TITLE_LINE
    sheet = Image.new("RGB", (width, y + len(rows) * pitch + len(headings) * _HEADING), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (GAP, 5), heads, bold, _TITLE_LINE)
    for row in rows:
        if row.start in headings:
            _write(draw, (GAP, y + 8), [headings[row.start]], bold, _TITLE_LINE)
            y += _HEADING
        for x, k in zip(range(GAP, width, cell + GAP), row, strict=False):
            picture = Image.fromarray(np.asarray(images[k]))
            sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (x, y))
            _write(draw, (x, y + cell + 2), texts[k], font, LINE)
        y += pitch
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG", optimize=True)
    return path


def _rows(count: int, columns: int, starts: Mapping[int, str]) -> list[range]:
    """The places of the pictures of each row; a row ends before each of the starts."""
    bounds = sorted({0, *starts, count})
    return [range(k, min(k + columns, end)) for begin, end in pairwise(bounds) for k in range(begin, end, columns)]


def _lines(caption: str, font: Font, width: int, lines: int) -> list[str]:
    """A caption in at most so many lines."""
    found: list[str] = []
    for part in caption.splitlines():
        found += wrapped(part, font, width, lines - len(found))
    return found


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], font: Font, pitch: int) -> None:
    x, y = at
    for place, line in enumerate(lines):
        draw.text((x, y + place * pitch), line, fill="black", font=font)
