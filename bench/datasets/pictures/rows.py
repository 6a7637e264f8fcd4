"""The common listing of captioned pictures, whatever form they lie in, and the faults that keep a row out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.api import DataError
from bench.config.pictures import Data

SEVERAL = "captions"  # the column of several captions a picture

# Every kind of fault, in the order in which the terminal lists them.
FAULT_KINDS = (
    "broken line",
    "missing",
    "no picture",
    "ambiguous",
    "outside",
    "absolute path",
    "backslashes",
    "zero bytes",
    "not a picture",
    "needs a plugin",
    "truncated",
    "enormous",
    "animated",
    "CMYK",
    "16-bit",
    "colour profile",
    "other colours",
    "no caption",
    "caption too long",
    "unreadable caption",
    "duplicate",
    "tie",
)
NOT_BROKEN = ("tie",)  # kinds of which any share is right


class PictureFault(DataError):
    """Why a row is left out: one of `FAULT_KINDS`, and what exactly was found."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class PictureRow:
    """One captioned picture as it is listed: nothing of it has been looked at yet.

    name: of the picture within its source (a file's name, or a row's number). place: where the listing names it, for
    messages. caption: what stands in the caption's column, or a list of several captions. bucket: (width, height) that
    HY-SOAR's listing asks for. rejected: the name of the picture that was rejected for it. repeats: how often an epoch
    shows it.
    """

    name: str
    place: str
    caption: object
    tag: str | None = None
    bucket: tuple[int, int] | None = None
    rejected: str | None = None
    repeats: int = 1


@dataclass(frozen=True)
class LeftOut:
    """A row that is not used: where it is listed, its picture's name, the kind of fault, and what was found."""

    place: str
    name: str
    kind: str
    detail: str


class PictureSource(Protocol):
    """Captioned pictures in one of the forms that can be read.

    form: in words. rows: in their order. left_out: lines that are no row. stamp: changes where a file may have changed.
    """

    @property
    def form(self) -> str: ...

    @property
    def rows(self) -> Sequence[PictureRow]: ...

    @property
    def left_out(self) -> Sequence[LeftOut]: ...

    @property
    def stamp(self) -> str: ...

    def read(self, name: str) -> bytes:
        """The stored bytes of the picture of that name.

        Raises:
            PictureFault: it is missing, or lies outside.
        """


def require_column(where: object, role: str, name: str, found: Iterable[str]) -> str:
    """`name`, if it is among the columns that were found; `role` is picture, rejected, caption or tag.

    Raises:
        DataError: it is not.
    """
    if name not in found:
        raise DataError(
            f"{where}: expected a column {name!r} for each {role}, but there are "
            f"{', '.join(map(repr, found)) or 'none'}: name it by --data.{role}_column"
        )
    return name


def caption_column(where: object, wanted: str | None, usual: str, found: Iterable[str]) -> str:
    """The column of the captions: the one that is `wanted`, the `usual` one, or `captions` where that alone is there.

    Raises:
        DataError: there is none of that name.
    """
    there = list(found)
    name = wanted or (SEVERAL if usual not in there and SEVERAL in there else usual)
    return require_column(where, "caption", name, there)


def captions_in(text: str) -> list[str]:
    """The captions of a text file, one a line."""
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def is_name(value: object) -> bool:
    """Whether a file may be called so."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def refuse_columns(form: str, settings: Data) -> None:
    """Raise DataError for settings that are of listings and tables alone."""
    for name in ("picture_column", "rejected_column", "caption_column", "tag_column", "pictures"):
        if getattr(settings, name) is not None:
            raise DataError(f"--data {settings.path} has {form}, which need no --data.{name}: leave it out")


def tag_text(value: object) -> str | None:
    """A row's tag as a text; None where there is none."""
    return str(value) if value not in (None, "") else None
