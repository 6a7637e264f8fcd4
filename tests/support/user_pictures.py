"""Folders of captioned pictures for tests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# The tiny pipeline's tokenizer reads lower-case letters; these words keep a caption far below its 20 tokens.
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "heart")


def captions(count: int) -> list[str]:
    """`count` different captions."""
    return [f"{a} {c} {s}" for a in ("a", "one", "two", "three") for c in COLOURS for s in SHAPES][:count]


def noise(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """A picture unlike any other."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(picture: Image.Image, **options: Any) -> bytes:
    """The picture as a PNG file."""
    return stored(picture, "PNG", **options)


def stored(picture: Image.Image, form: str, **options: Any) -> bytes:
    """The picture as a file of that format."""
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def write_listing(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """metadata.jsonl."""
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def image_folder(
    folder: Path, count: int = 30, draw: Callable[[int], Image.Image] = noise, **more: Sequence[Any]
) -> Path:
    """An ImageFolder of `count` good pictures 0.png, 1.png, ...; `more` are further columns."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, caption in enumerate(captions(count)):
        draw(number).save(folder / f"{number}.png")
        extra = {name: values[number] for name, values in more.items()}
        rows.append({"file_name": f"{number}.png", "text": caption, **extra})
    write_listing(folder, rows)
    return folder
