"""The ranked contact sheet: the pictures from best to worst, each with rank, score, name and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bench.datasets.scenes.lettering import cut_in_front, legible, plain_font
from bench.datasets.scenes.sheet import CAPTION_SIZE, contact_sheet
from bench.files import appears_whole
from bench.scoring.folder.picture_folder import PictureEntry, read_picture
from bench.scoring.ranking import ranking

CELL = 168  # pixels of a picture's longer side
_COLUMNS = 8
_EACH_END = 20  # pictures shown of the best and of the worst, where there are more than both
_LINES = 5  # of a caption


def draw_sheet(
    folder: Path, entries: Sequence[PictureEntry], scores: np.ndarray, name: str, higher_is_better: bool, out: Path
) -> None:
    """Write the sheet of one scorer as a PNG. scores: (N,), NaN for entries that were not judged, which are left out.

    Equal scores share a rank and stand in the order of the entries. Of more than 40 pictures the best 20 and the
    worst 20 are shown, each under a heading.
    """
    order, ranks = ranking(scores, higher_is_better)
    shown, headings = np.arange(len(order)), {}
    heading = sheet_title(name, ranks, higher_is_better)
    if len(order) > 2 * _EACH_END:
        shown = np.r_[shown[:_EACH_END], shown[-_EACH_END:]]
        headings = {0: f"best {_EACH_END}", _EACH_END: f"worst {_EACH_END}"}
        heading += f"; shown are the best {_EACH_END} and the worst {_EACH_END}"
    if any(_one_line(entries[row].name) != entries[row].name for row in order[shown]):
        heading += "; 'row' is a file's row in the table, whose header is row 1"
    tiles, captions = [], []
    for place in shown:
        row = int(order[place])
        tiles.append(_tile(read_picture(folder / entries[row].name)))
        captions.append(picture_caption(int(ranks[place]), float(scores[row]), row, entries[row]))
    with appears_whole(out) as temporary:
        contact_sheet(
            np.stack(tiles), captions, _COLUMNS, heading, temporary, cell=CELL, lines=_LINES, headings=headings
        )


def sheet_title(name: str, ranks: np.ndarray, higher_is_better: bool) -> str:
    """What the sheet shows: scorer, number of pictures, direction, and how many share the first place."""
    count, first = len(ranks), int((ranks == 1).sum())
    better = f"({'higher' if higher_is_better else 'lower'} is better)"
    if count == 1:
        return f"{name}: 1 picture {better}"
    alike = "" if first == 1 else "; all score alike" if first == count else f"; the first {first} score alike"
    return f"{name}: {count} pictures, best first {better}{alike}"


def _tile(pixels: np.ndarray) -> np.ndarray:
    """The whole picture in the middle of a white square, uint8 (CELL, CELL, 3)."""
    is_small = max(pixels.shape[:2]) <= CELL
    filter_ = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    return np.asarray(ImageOps.pad(Image.fromarray(pixels), (CELL, CELL), filter_, color="white"))


def picture_caption(rank: int, score: float, place: int, entry: PictureEntry) -> str:
    """Rank and score, the end of the name, the prompt.

    place: the entry's, from 0. A name that cannot be shown as it is comes with its row in the table.
    """
    font = plain_font(CAPTION_SIZE)
    name = _one_line(entry.name)
    if name != entry.name:
        name += f" (row {place + 2})"
    prompt = " ".join(entry.prompt.text.split()) if entry.prompt else ""
    return "\n".join([f"#{rank}, score {score:.4g}", cut_in_front(name, font, CELL), prompt])


def _one_line(name: str) -> str:
    """The name in letters that the font has, without line breaks."""
    return " ".join(legible(name, plain_font(CAPTION_SIZE)).split())
