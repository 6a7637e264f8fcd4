"""The sample grid: rows are prompts, columns are models, the same prompt and noise side by side."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.results.figures.style import LINE, Form, line_count, new_figure, saved

__all__ = ["draw_sample_grid", "split_tiles"]

TILE_INCHES = 0.95


def split_tiles(png: bytes, tile: tuple[int, int], count: int) -> list[np.ndarray]:
    """Cut a row of tiles into pictures uint8 (H, W, 3); tile is (width, height). Raises ValueError for other sizes."""
    from PIL import Image

    width, height = tile
    wanted = f"expected {count} tiles of {width}x{height} in a row"
    try:
        with Image.open(io.BytesIO(png)) as image:
            if image.size != (width * count, height):  # before it is decoded, which takes memory for all of it
                raise ValueError(f"{wanted}, got {image.size[0]}x{image.size[1]}")
            pixels = np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{wanted}, got a picture that is too large to open") from error
    return [pixels[:, width * number : width * (number + 1)] for number in range(count)]


def draw_sample_grid(data: Mapping[str, Any], tiles: Mapping[str, list[np.ndarray]], form: Form = "png") -> bytes:
    """data: columns [method ..], captions [..]; tiles: method to one picture uint8 (H, W, 3) a caption."""
    columns, captions = data["columns"], data["captions"]
    titles = ["\n".join(textwrap.wrap(method.replace("+", "+ "), 10)).replace("+ ", "+") for method in columns]
    left, top = 2.3, 0.11 + LINE * max(2, line_count(titles))
    width, height = left + TILE_INCHES * len(columns), top + TILE_INCHES * len(captions)
    with new_figure(width, height) as figure:
        for row, caption in enumerate(captions):
            y = 1 - (top + TILE_INCHES * (row + 0.5)) / height
            text = "\n".join(textwrap.wrap(caption, 32, max_lines=4, placeholder=" …"))
            figure.text((left - 0.1) / width, y, text, ha="right", va="center", fontsize=8.5)
            for column, method in enumerate(columns):
                inset = 0.03
                box = (
                    (left + TILE_INCHES * column + inset) / width,
                    y - (TILE_INCHES / 2 - inset) / height,
                    (TILE_INCHES - 2 * inset) / width,
                    (TILE_INCHES - 2 * inset) / height,
                )
                axes = figure.add_axes(box)
                axes.imshow(tiles[method][row], interpolation="nearest")
                axes.set_axis_off()
        for column, title in enumerate(titles):
            x = (left + TILE_INCHES * (column + 0.5)) / width
            figure.text(x, 1 - top / 2 / height, title, ha="center", va="center", fontsize=8.5, weight="bold")
        return saved(figure, form)
