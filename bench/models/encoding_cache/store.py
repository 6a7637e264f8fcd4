"""Entries of the cache on disk: tensors in a safetensors file each, named by all that their bits depend on.

Two processes that make one entry at once write the same bytes. A flipped bit or a missing end shows when it is read.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.api import DataError
from bench.models.encoding_cache.folder import entry_path, make_room, usable

Entry = Mapping[str, Tensor]


class DamagedError(DataError):
    """A file of the cache holds something else than was written."""


@dataclass
class Counts:
    """Distinct entries that were asked for: `found` on disk, and `made` because they were not."""

    found: int = 0
    made: int = 0


class Store:
    """Entries by kind and key; `limit` is how many bytes the folder may hold, `note` is told of what went wrong.

    To keep the limit, the files that were used longest ago go; those that this store found or wrote are not removed by
    it, but may be by another process. Several processes that write at once may exceed the limit for a while, by a
    twentieth each.
    """

    def __init__(self, folder: Path, limit: float, note: Callable[[str], object] = print) -> None:
        self.folder = folder
        self.limit = limit
        self.counts = Counts()
        self._note = note
        self._own: set[str] = set()  # paths of what was found or written
        self._room = 0.0  # bytes that may be written before the folder is measured again
        self._is_open = True  # for writing: what fails once is not tried for every entry

    def find(self, kind: str, keys: Iterable[str]) -> set[str]:
        """The keys that are there, which count as used now.

        Raises:
            DataError: the folder cannot be used.
        """
        found = set()
        with usable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for key in keys:
                path = entry_path(self.folder, kind, key)
                if path.exists():
                    _touch(path)
                    self._own.add(str(path))
                    found.add(key)
        return found

    def read(self, kind: str, key: str) -> Entry | None:
        """An entry in main memory; None where it is gone, or damaged, which is told, and removed.

        Raises:
            DataError: the file may not be read.
        """
        path = entry_path(self.folder, kind, key)
        with usable(self.folder), suppress(FileNotFoundError):
            try:
                entry = read_entry(path)
            except DamagedError as error:
                self._note(f"{path} is damaged ({error}): what it held is encoded again")
                path.unlink()
            else:
                _touch(path)
                return entry
        return None

    def add(self, kind: str, key: str, entry: Entry) -> bool:
        """Keep an entry; False where it does not fit or cannot be written, which is told once."""
        if not self._is_open:
            return False
        data = save({name: tensor.contiguous() for name, tensor in entry.items()}, {"checksum": checksum(entry)})
        path = entry_path(self.folder, kind, key)
        try:
            if not self._has_room(len(data)):
                return False
            _write(path, data)
        except FileNotFoundError:  # the cache was cleared in this moment
            return False
        except (OSError, DataError) as error:
            self._close(
                f"the cache {self.folder} cannot be written ({error}): what is encoded now stays in memory; free some "
                "space, or set $BENCH_CACHE to another place"
            )
            return False
        self._own.add(str(path))
        self._room -= len(data)
        return True

    def _has_room(self, size: int) -> bool:
        if size > self._room:
            free = make_room(self.folder, size, self.limit, self._own)
            if free is None:
                self._close(
                    f"the cache {self.folder} is full: this run uses all that its limit of {self.limit / 2**30:g} GiB "
                    "leaves room for, so its other encodings stay in its memory and are made again by the next; raise "
                    "--cache-gib"
                )
                return False
            self._room = max(size, min(free, self.limit / 20))  # no more: others write, too
        return True

    def _close(self, reason: str) -> None:
        self._is_open = False
        self._note(reason)


def read_entry(path: Path) -> Entry:
    """What `Store.add` wrote.

    Raises:
        DamagedError: it is something else by now.
        OSError: it is gone, or cannot be read.
    """
    data = path.read_bytes()  # opened once: `safe_open` opens a file twice, between which it may go
    try:
        # Copied: tensors of PyTorch's own making are aligned, and other alignments take other kernels
        entry = {name: tensor.clone() for name, tensor in load(data).items()}
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        told = header["__metadata__"]["checksum"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(f"it is no file of tensors with a checksum: {error}") from error
    if checksum(entry) != told:
        raise DamagedError("it does not match its checksum")
    return entry


def checksum(entry: Entry) -> str:
    """16 hex digits of names, types, shapes and bits."""
    whole = blake2b(digest_size=8)
    for name, tensor in sorted(entry.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Let a file appear whole, but do not wait for the disk, as `bench.files` does, at seven times the cost.

    What a power failure takes away is missing or fails its checksum, and is encoded again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _touch(path: Path) -> None:
    """Set the time of last use; in a folder that may only be read, nobody removes anything by it."""
    with suppress(OSError):
        os.utime(path)
