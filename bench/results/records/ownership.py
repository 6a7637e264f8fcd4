"""Whose an experiment is: the user's own from its first run on, until it is shared.

A `.gitignore` in its folder keeps all of it out of version control, and so out of the report of what is shared.
"""

from __future__ import annotations

from pathlib import Path

from bench.api import DataError
from bench.files import write_whole
from bench.paths import inside
from bench.reading import read_text

_FILE = ".gitignore"
_TEXT = """# Written by `bench run`: these results are your own, and no part of the report of what is shared.
# To share them, remove this file and run `bench report`.
*
"""


def mark_as_own(folder: Path) -> None:
    """Say that the experiment in this folder is the user's own, before its first cell is run."""
    write_whole(inside(folder, _FILE), _TEXT.encode())


def is_own(folder: Path) -> bool:
    """Whether an experiment is the user's own: whether all that lies in its folder is out of version control.

    Raises:
        DataError: a link stands in the place of the file that says so, or it cannot be read.
    """
    path = inside(folder, _FILE)
    try:
        return "*" in read_text(path).splitlines() if path.is_file() else False
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
