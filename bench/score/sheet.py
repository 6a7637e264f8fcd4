"""The ranked contact sheet: the pictures from best to worst, each with rank, score, name and prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bench.files import appears_whole
from bench.score.listing import Entry, read_picture
from bench.tasks.scenes.sheet import contact_sheet

CELL = 168  # pixels of a picture's longer side
_COLUMNS = 8
_EACH_END = 20  # pictures shown of the best and of the worst, where there are more than both
_WIDTH = CELL // 6  # letters of a line


def draw_sheet(
    folder: Path, entries: Sequence[Entry], scores: np.ndarray, name: str, higher_is_better: bool, out: Path
) -> None:
    """Write the sheet of one scorer as a PNG. scores: (N,), NaN for entries that were not judged, which are left out.

    Of more than 40 pictures the best 20 and the worst 20 are shown, and the title says so.
    """
    judged = np.flatnonzero(~np.isnan(scores))
    order = judged[np.argsort(-scores[judged] if higher_is_better else scores[judged], kind="stable")]
    ranks = np.arange(len(order))
    shown = ranks if len(ranks) <= 2 * _EACH_END else np.r_[ranks[:_EACH_END], ranks[-_EACH_END:]]
    title = f"{name}: {len(order)} pictures, best first ({'higher' if higher_is_better else 'lower'} is better)"
    if len(shown) < len(order):
        title += f"; shown are the best {_EACH_END} and the worst {_EACH_END}"
    tiles, captions = [], []
    for rank in shown:
        entry = entries[order[rank]]
        tiles.append(_tile(read_picture(folder / entry.name)))
        captions.append(_caption(int(rank), float(scores[order[rank]]), entry))
    with appears_whole(out) as temporary:
        contact_sheet(np.stack(tiles), captions, _COLUMNS, title, temporary, cell=CELL, lines=5)


def _tile(pixels: np.ndarray) -> np.ndarray:
    """The whole picture in the middle of a white square, uint8 (CELL, CELL, 3)."""
    is_small = max(pixels.shape[:2]) <= CELL
    filter_ = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    return np.asarray(ImageOps.pad(Image.fromarray(pixels), (CELL, CELL), filter_, color="white"))


def _caption(rank: int, score: float, entry: Entry) -> str:
    name = entry.name if len(entry.name) <= _WIDTH else f"...{entry.name[3 - _WIDTH :]}"
    prompt = textwrap.wrap(entry.prompt.text, _WIDTH, max_lines=3, placeholder=" ...") if entry.prompt else []
    return "\n".join([f"#{rank + 1}  score {score:.4g}", name, *prompt])
