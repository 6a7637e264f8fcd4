"""Pairs of pictures of one caption, of which one was chosen and the other rejected, in the columns that data sets have.

A column `rejected_X` beside the column X of the pictures, or another one that the settings name; or as in Pick-a-Pic,
jpg_0, jpg_1, label_0, label_1 and caption, where the larger label is that of the chosen one and equal ones are a tie.
Source: Pick-a-Pic, arXiv 2305.01569, the card of its data set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.config.pictures import Data
from bench.datasets.pictures.rows import PictureFault, caption_column, require_column

_PICK_A_PIC = ("jpg_0", "jpg_1"), ("label_0", "label_1"), "caption"


@dataclass(frozen=True)
class PairColumns:
    """The columns of the two pictures, chosen first where no `labels` rank them."""

    pictures: tuple[str, str]
    labels: tuple[str, str] | None = None

    def ranked(self, cells: Mapping[str, Any]) -> tuple[str, str]:
        """The columns of the chosen and of the rejected picture of a row.

        Raises:
            PictureFault: neither is chosen, or what its labels say is no number.
        """
        if self.labels is None:
            return self.pictures
        try:
            first, second = (float(cells[name]) for name in self.labels)
            if not math.isfinite(first) or not math.isfinite(second):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            told = ", ".join(f"{name} {cells.get(name)!r}" for name in self.labels)
            raise PictureFault("broken line", f"expected a number as each label, got {told}") from None
        if first == second:
            raise PictureFault("tie", f"both labels are {first:g}: neither picture is chosen")
        return self.pictures if first > second else (self.pictures[1], self.pictures[0])


def pair_columns(
    where: object, settings: Data, usual: tuple[str, str], found: Iterable[str]
) -> tuple[str, str, PairColumns | None]:
    """The columns of pictures, of captions, and of pairs where rows are pairs; `usual` are the first two.

    Raises:
        DataError: one of them is not among the columns that were found.
    """
    names = list(found)
    pictures, labels, text = _PICK_A_PIC
    given = settings.picture_column or settings.rejected_column
    if given is None and {*pictures, *labels} <= {*names}:
        caption = caption_column(where, settings.caption_column, text, names)
        return pictures[0], caption, PairColumns(pictures, labels)
    picture = require_column(where, "picture", settings.picture_column or usual[0], names)
    caption = caption_column(where, settings.caption_column, usual[1], names)
    rejected = settings.rejected_column or f"rejected_{picture}"
    if settings.rejected_column is None and rejected not in names:
        return picture, caption, None
    return picture, caption, PairColumns((picture, require_column(where, "rejected", rejected, names)))
