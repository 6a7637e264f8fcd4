"""The cache of encodings on disk: entries named by all that they depend on, in shards that any process may read.

Processes share one folder. Whoever adds or removes a shard, or begins to use one, holds the folder's lock for that
moment; reading takes none, because a shard never changes. To keep the size limit, shards that were used longest ago go
first, and never those that a living process works with.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.api import DataError
from bench.files import remove_parts
from bench.models.encoding_cache.cache_file import DamagedError, Entry, Shard, size_of, write_shard
from bench.models.encoding_cache.folder import SUFFIX, files_of
from bench.models.encoding_cache.lease import Lease, in_use

_LOCK = "lock"


@dataclass
class Counts:
    """Distinct entries that were asked for: `found` on disk, and `made` because they were not."""

    found: int = 0
    made: int = 0


class Store:
    """Entries by key; `limit` is how many bytes the folder may hold, `note` is told of what went wrong, once each."""

    def __init__(self, folder: Path, limit: float, note: Callable[[str], object] = print) -> None:
        self.folder = folder
        self.limit = limit
        self.counts = Counts()
        self._note = note
        self._told: set[str] = set()
        self._shards: dict[str, Shard] = {}
        self._where: dict[str, str] = {}  # the shard of each key
        self._lease = Lease(folder)

    def find(self, keys: Iterable[str]) -> set[str]:
        """The keys that are there; from now on nobody removes their shards to make room.

        Raises:
            DataError: the folder cannot be used.
        """
        with self._locked():
            self._look()
            found = {key for key in keys if key in self._where}
            self._use(found)
        return found

    def read(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Those entries of keys that were found which are still there and undamaged, in main memory.

        Raises:
            DataError: a shard may not be read.
        """
        wanted: dict[str, list[str]] = {}
        for key in keys:
            if key in self._where:
                wanted.setdefault(self._where[key], []).append(key)
        entries: dict[str, Entry] = {}
        for name, own in wanted.items():
            try:
                with self._usable():
                    entries |= self._shards[name].read(own)
            except FileNotFoundError:  # somebody has cleared the cache
                self._forget(name)
            except DamagedError as error:
                self._drop(name, error)
        return entries

    def add(self, kind: str, entries: Mapping[str, Entry]) -> set[str]:
        """Keep entries of one kind as a shard; returns the keys that are there now.

        None of them where they do not fit or cannot be written, which is told. What another process was quicker to
        write is not written again.
        """
        with self._locked():
            remove_parts(self.folder)  # of processes that were killed while they wrote
            self._look()
            fresh = {key: entry for key, entry in entries.items() if key not in self._where}
            if fresh and self._has_room(size_of(fresh.values())):
                try:
                    write_shard(self.folder / f"{uuid.uuid4().hex}{SUFFIX}", kind, fresh)
                except DataError as error:
                    self._tell_once(
                        f"the cache {self.folder} cannot be written ({error.__cause__ or error}): what is encoded now "
                        "stays in memory; free some space, or set $BENCH_CACHE to another place"
                    )
                self._look()
            kept = {key for key in entries if key in self._where}
            self._use(kept)
        return kept

    def entries(self) -> dict[str, int]:
        """How many there are of each kind."""
        with self._locked():
            self._look()
        counts: dict[str, int] = {}
        for shard in self._shards.values():
            counts[shard.kind] = counts.get(shard.kind, 0) + len(list(shard.keys))
        return counts

    def clear(self) -> int:
        """Remove all shards that no living process works with; returns the bytes that they took."""
        with self._locked():
            remove_parts(self.folder)
            taken = in_use(self.folder)
            gone = {name: size for name, (size, _) in files_of(self.folder).items() if name not in taken}
            for name in gone:
                self._remove(name)
        return sum(gone.values())

    # Under the lock

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._usable():
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / _LOCK).open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Turns the operating system's refusals into one message."""
        try:
            yield
        except FileNotFoundError:  # a shard that another process has removed
            raise
        except OSError as error:
            raise DataError(
                f"the cache {self.folder} cannot be used: {error.strerror or error}; expected a folder that can be "
                "written: mend it, set $BENCH_CACHE to another one, or say --cache-gib 0"
            ) from error

    def _look(self) -> None:
        """Take in what others have added and removed since."""
        there = files_of(self.folder)
        for name in self._shards.keys() - there.keys():
            self._forget(name)
        for name in sorted(there.keys() - self._shards.keys()):
            try:
                shard = Shard(self.folder / name)
            except DamagedError as error:
                self._drop(name, error)
            except FileNotFoundError:  # dropped by another process, which needs no lock for it
                continue
            else:
                self._shards[name] = shard
                self._where |= dict.fromkeys(shard.keys, name)

    def _use(self, keys: Iterable[str]) -> None:
        for name in self._lease.take({self._where[key] for key in keys}):
            with suppress(FileNotFoundError):  # dropped by another process, as damaged: reading it will show
                os.utime(self.folder / name)

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes fit into the limit, once those shards are gone that can be spared."""
        files, taken = files_of(self.folder), in_use(self.folder)
        excess = sum(held for held, _ in files.values()) + size - self.limit
        spare = sorted((name for name in files if name not in taken), key=lambda name: files[name][1])
        if excess > sum(files[name][0] for name in spare):
            self._tell_once(
                f"the cache {self.folder} is full: living runs work with all that its limit of "
                f"{self.limit / 2**30:g} GiB leaves room for, so the other encodings of this run stay in its memory "
                "and are made again by the next; raise --cache-gib"
            )
            return False
        for name in spare:
            if excess <= 0:
                break
            self._remove(name)
            excess -= files[name][0]
        return True

    # Losses

    def _drop(self, name: str, error: DamagedError) -> None:
        """Remove a damaged shard: what it held is missing from now on, and is encoded again."""
        self._tell_once(f"{self.folder / name} is damaged ({error}): what it held is encoded again")
        with self._usable():
            self._remove(name)

    def _remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._shards.pop(name, None)
        self._where = {key: place for key, place in self._where.items() if place != name}

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._note(message)
