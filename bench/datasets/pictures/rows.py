"""The common listing of captioned pictures, whatever form they lie in, and the faults that keep a row out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.api import DataError

# Every kind of fault, in the order in which the terminal lists them.
FAULT_KINDS = (
    "broken line",
    "missing",
    "outside",
    "absolute path",
    "backslashes",
    "zero bytes",
    "not a picture",
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
    messages. caption: what stands in the caption's column. bucket: (width, height) that HY-SOAR's listing asks for.
    rejected: the name of the picture that was rejected for it.
    """

    name: str
    place: str
    caption: object
    tag: str | None = None
    bucket: tuple[int, int] | None = None
    rejected: str | None = None


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


def tag_text(value: object) -> str | None:
    """A row's tag as a text; None where there is none."""
    return str(value) if value not in (None, "") else None
