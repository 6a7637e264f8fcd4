"""Which shards a process works with: a list in a file whose lock the system lets go of when the process ends."""

from __future__ import annotations

import fcntl
import os
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path

FOLDER = "in-use"


class Lease:
    """The list of one store. Everybody holds the store's own lock while a list is written or read.

    The file of a process that has ended stays until somebody reads the lists.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOLDER / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._names: set[str] = set()
        self._descriptor: int | None = None

    def take(self, names: Iterable[str]) -> set[str]:
        """Add shards to the list; returns those that were not on it."""
        new = set(names) - self._names
        if new:
            if self._descriptor is None:
                self._begin()
            assert self._descriptor is not None
            os.write(self._descriptor, "".join(f"{name}\n" for name in sorted(new)).encode())
            self._names |= new
        return new

    def _begin(self) -> None:
        self._path.parent.mkdir(exist_ok=True)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        weakref.finalize(self, os.close, self._descriptor)


def in_use(folder: Path) -> set[str]:
    """The shards on the lists of all processes that live; lists of others are removed."""
    names: set[str] = set()
    for path in (folder / FOLDER).glob("*"):
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                names |= set(file.read().split())
            else:
                path.unlink()
    return names
