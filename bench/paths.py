"""Paths in stored files: none leads out of its folder, and none is absolute; where data is kept between runs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bench.api import DataError
from bench.reading import kind_of

ELSEWHERE = ".../"  # stands for where a path lies that is in neither the working folder nor the user's
_ENDS = r"\s'\"`,;:()\[\]{}<>|*+="  # of a path within a text
# No path begins within a word, a relative path, an address or a pattern; the weight of a sum may stand before one.
_BEGINS = r"(?:(?<![\w./~<>)\]}*\u2026])|(?<=\d\*))"
_ABSOLUTE = re.compile(rf"{_BEGINS}/(?!/)[^{_ENDS}]+")
_SERVER = re.compile(rf"\b(https?://)(?:[^{_ENDS}/]+:\d+|(?<=http://)[^{_ENDS}/]+)")


class NoFileError(DataError):
    """What stands there is neither a file nor a folder."""


def inside(folder: Path, name: str) -> Path:
    """The path of a file or folder below `folder`, whether it exists or not; `folder` itself may be a link.

    Raises:
        DataError: `name` is absolute, leads out of the folder, or is or passes a link, which could lead anywhere.
        NoFileError: it is or passes a pipe, a socket or a device, which could keep whoever opens it waiting.
    """
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise DataError(
            f"{folder} names the file {name!r}: expected one within that folder; nothing else is read or written, so "
            "get these files again from where they were made"
        )
    path = folder
    for part in pure.parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError:  # nothing there, or nothing that can be looked at: told by whoever opens it
            continue
        if stat.S_ISLNK(mode):
            raise DataError(
                f"{path} is a link: expected a file or a folder itself, so that nothing outside {folder} is read or "
                "written; put what it points to in its place"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NoFileError(f"{path} is {kind_of(mode)}: expected a file or a folder; remove it, or put that there")
    return path


def cache_folder() -> Path:
    """Where data that can be made again is kept between runs: `$BENCH_CACHE`, or `~/.cache/bench`."""
    return Path(os.environ.get("BENCH_CACHE") or Path.home() / ".cache" / "bench")


def portable(text: str, *, known: bool = True) -> str:
    """A text without absolute paths and names of servers, as it is stored; relative paths stay as they are.

    Where these folders are `known`, a path in the working folder is relative to it, and one in the user's folder is
    `~/...`. Of all others `.../` and the last name are left.
    """
    if "/" not in text:
        return text
    text = _SERVER.sub(r"\1...", text)
    for folder, shown in _folders() if known else ():
        place = _BEGINS + re.escape(str(folder))
        text = re.sub(rf"{place}/+(?=[^{_ENDS}/])", "" if shown == "." else f"{shown}/", text)
        text = re.sub(rf"{place}/?(?=[{_ENDS}]|$)", shown, text)
    return _ABSOLUTE.sub(lambda found: ELSEWHERE + PurePosixPath(found[0]).name, text)


def portable_values(value: Any) -> Any:
    """JSON-able values whose texts, names of mappings included, are `portable`."""
    if isinstance(value, str):
        return portable(value)
    if isinstance(value, Mapping):
        return {portable_values(name): portable_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable_values(item) for item in value]
    return value


def expanded(text: str) -> str:
    """The inverse of `portable` for the user's folder: each `~/` at the beginning of a path is that folder."""
    home = _home()
    return text if home is None else re.sub(rf"(?:^|(?<=[{_ENDS}]))~/", lambda _: f"{home}/", text)


def _folders() -> list[tuple[Path, str]]:
    """The working folder and the user's with what stands for them, each also as it is called through links."""
    here, home = Path.cwd(), _home()
    named = Path(os.environ.get("PWD", here))
    found = [(here, ".")] + ([(named, ".")] if named.is_dir() and named.samefile(here) else [])
    found += [] if home is None else [(home, "~"), (home.resolve(), "~")]
    return [(folder, shown) for folder, shown in dict.fromkeys(found) if folder != Path(folder.anchor)]


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a process without a user's entry
        return None
