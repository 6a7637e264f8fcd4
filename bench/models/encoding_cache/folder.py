"""The folder of encodings: a file for each, and how much room they take; without torch, for those who only tell it.

Processes share it without a lock. Files appear whole and never change, and any of them may go at any time: who misses
one encodes it again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.api import DataError
from bench.paths import cache_folder

_SUFFIX = ".safetensors"


class CachedFile(NamedTuple):
    """A file in the folder: its bytes, and when it was used last, in seconds since 1970."""

    path: str
    size: int
    used: float


def folder_of_all() -> Path:
    """The folder of the encodings of all runs."""
    return cache_folder() / "encoded"


def entry_path(folder: Path, kind: str, key: str) -> Path:
    """The file of an entry of a kind (`texts`, `pictures`), beside some hundredth of the others, for short listings."""
    return folder / kind / key[:2] / f"{key}{_SUFFIX}"


def files_of(folder: Path) -> Iterator[CachedFile]:
    """All files below a folder, also what a killed writer left: it takes room, and goes, like everything else.

    Raises:
        DataError: the folder cannot be used.
    """
    with usable(folder), suppress(FileNotFoundError):  # the folder itself is gone, or was never there
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from files_of(Path(entry.path))
                continue
            with suppress(FileNotFoundError):  # gone meanwhile
                stat = entry.stat(follow_symlinks=False)
                yield CachedFile(entry.path, stat.st_size, stat.st_mtime)


def size_of_all(folder: Path) -> int:
    """Bytes of all files; raises as `files_of` does."""
    return sum(file.size for file in files_of(folder))


def entry_counts(folder: Path) -> dict[str, int]:
    """How many entries there are of each kind; raises as `files_of` does."""
    paths = (Path(file.path).relative_to(folder) for file in files_of(folder))
    return dict(Counter(p.parts[0] for p in paths if len(p.parts) == 3 and p.name == f"{p.stem}{_SUFFIX}"))


def remove_all(folder: Path) -> int:
    """Remove all files, also those that a living run would use again; returns their bytes.

    Raises:
        DataError: the folder cannot be used.
    """
    size = 0
    for file in list(files_of(folder)):
        with usable(folder):
            Path(file.path).unlink(missing_ok=True)
        size += file.size
    return size


def make_room(folder: Path, size: int, limit: float, spared: Container[str]) -> float | None:
    """Remove the files that were used longest ago, until `size` bytes fit into the limit; returns the free bytes.

    None, with nothing removed, where the `spared` files (by path) leave less room than that. A twentieth of the limit
    is made free where it can be, so that the folder need not be listed for every file.

    Raises:
        DataError: the folder cannot be used.
        OSError: a file may not be removed.
    """
    files = list(files_of(folder))
    free = limit - sum(file.size for file in files)
    spare = sorted((file for file in files if file.path not in spared), key=lambda file: file.used)
    if free + sum(file.size for file in spare) < size:
        return None
    for file in spare:
        if free >= max(size, limit / 20):
            break
        Path(file.path).unlink(missing_ok=True)
        free += file.size
    return free


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one message; what is not there stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(
            f"the cache {folder} cannot be used: {error.strerror or error}; expected a folder that can be written: "
            "mend it, set $BENCH_CACHE to another one, or say --cache-gib 0"
        ) from error
