"""Paths that stored files name, which must not lead out of their folder, and where data is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from bench.api import DataError


def inside(folder: Path, name: str) -> Path:
    """The path of a file or folder below `folder`, whether it exists or not; `folder` itself may be a link.

    Raises:
        DataError: `name` is absolute, leads out of the folder, or is or passes a link, which could lead anywhere.
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
        if path.is_symlink():
            raise DataError(
                f"{path} is a link: expected a file or a folder itself, so that nothing outside {folder} is read or "
                "written; put what it points to in its place"
            )
    return path


def cache_folder() -> Path:
    """Where data that can be made again is kept between runs: `$BENCH_CACHE`, or `~/.cache/bench`."""
    return Path(os.environ.get("BENCH_CACHE") or Path.home() / ".cache" / "bench")
