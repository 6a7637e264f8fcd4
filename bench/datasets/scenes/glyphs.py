"""The glyphs of DejaVu Sans Bold as signed distance tables, rasterised once per process."""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

# Table resolution: pixels per glyph height, and free space around the glyph's box.
TABLE_HEIGHT = 64
TABLE_PAD = 24


def font_path() -> Path:
    """The font file, as matplotlib ships it."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"


@cache
def _ink(glyph: str) -> np.ndarray:
    """The glyph cut to its ink box at four times the table's resolution, bool (height, width)."""
    font = ImageFont.truetype(str(font_path()), 4 * TABLE_HEIGHT)
    canvas = Image.new("L", (8 * TABLE_HEIGHT, 8 * TABLE_HEIGHT))
    ImageDraw.Draw(canvas).text((TABLE_HEIGHT, TABLE_HEIGHT), glyph, fill=255, font=font)
    ink = np.asarray(canvas) >= 128
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def aspect(glyph: str) -> float:
    """Width of the glyph's ink divided by its height."""
    height, width = _ink(glyph).shape
    return width / height


@cache
def distance_table(glyph: str) -> np.ndarray:
    """Signed distance to the outline in glyph heights, negative inside; float32 (H, W), centred on the ink's box.

    One cell is 1 / TABLE_HEIGHT of the glyph's height; the table reaches TABLE_PAD cells beyond the box.
    """
    ink = _ink(glyph)
    scale = ink.shape[0] / TABLE_HEIGHT
    padded = np.pad(ink, round(TABLE_PAD * scale) + 2)
    signed = ndimage.distance_transform_edt(~padded) - ndimage.distance_transform_edt(padded)
    height, width = TABLE_HEIGHT + 2 * TABLE_PAD, round(ink.shape[1] / scale) + 2 * TABLE_PAD
    rows = (np.arange(height) - (height - 1) / 2) * scale + (padded.shape[0] - 1) / 2
    columns = (np.arange(width) - (width - 1) / 2) * scale + (padded.shape[1] - 1) / 2
    table = ndimage.map_coordinates(signed / ink.shape[0], np.meshgrid(rows, columns, indexing="ij"), order=1)
    return table.astype(np.float32)
