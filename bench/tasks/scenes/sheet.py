"""Sheets of pictures with captions underneath, for the report and for looking at."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.tasks.scenes.glyphs import font_path

CELL = 132
TEXT_LINES = 3
LINE = 12


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[str],
    columns: int,
    title: str,
    path: str | Path,
    *,
    cell: int = CELL,
    lines: int = TEXT_LINES,
) -> Path:
    """Write a PNG with the pictures in rows, each with its caption (at most `lines` lines, shown as plain text).

    images: uint8 (N, H, W, 3), scaled to `cell` pixels without smoothing. Returns the path; parent folders are made.

    Raises: ValueError if there is not exactly one caption for every picture, or no picture.
    """
    if len(images) != len(captions) or len(images) == 0 or columns < 1:
        raise ValueError(f"expected one caption for each of at least one picture, got {len(images)}, {len(captions)}")
    font = ImageFont.truetype(str(font_path().with_name("DejaVuSans.ttf")), 10)
    bold = ImageFont.truetype(str(font_path()), 13)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    pitch_x, pitch_y, top = cell + 8, cell + lines * LINE + 10, 26
    sheet = Image.new("RGB", (columns * pitch_x + 8, rows * pitch_y + top), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 5), title, fill="black", font=bold)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 8 + (k % columns) * pitch_x, top + (k // columns) * pitch_y
        sheet.paste(Image.fromarray(np.asarray(image)).resize((cell, cell), Image.Resampling.NEAREST), (x, y))
        for j, line in enumerate(_wrapped(caption, max(8, cell // 6), lines)):
            draw.text((x, y + cell + 2 + j * LINE), line, fill="black", font=font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG", optimize=True)
    return path


def _wrapped(caption: str, width: int, lines: int) -> list[str]:
    """A caption in at most so many lines; its own line breaks stay."""
    found: list[str] = []
    for part in caption.split("\n"):
        if len(found) < lines:
            found += textwrap.wrap(part, width, max_lines=lines - len(found), placeholder=" ...")
    return found
