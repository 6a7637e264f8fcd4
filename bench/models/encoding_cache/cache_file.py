"""One file of encodings: safetensors, whose header is its index and holds a checksum of every entry.

Index and content are one file, which appears whole or not at all; any flipped bit or missing end shows when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.api import DataError
from bench.tensors import write_tensors

Entry = Mapping[str, Tensor]


class DamagedError(DataError):
    """A file of the cache holds something else than was written."""


def write_shard(path: Path, kind: str, entries: Mapping[str, Entry]) -> None:
    """Store entries by key (no dots in it); `kind` says what they are of: `texts` or `pictures`.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    sums = {key: checksum(entry) for key, entry in entries.items()}
    tensors = {f"{key}.{name}": tensor for key, entry in entries.items() for name, tensor in entry.items()}
    write_tensors(path, tensors, {"kind": kind, "sums": json.dumps(sums)})


class Shard:
    """The index of one file; its entries are read when they are asked for.

    Raises:
        DamagedError: the file is no shard, or cut short.
        FileNotFoundError, PermissionError: it is gone, or belongs to somebody else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata()
                self.kind = str(about["kind"])
                self._sums: dict[str, str] = dict(json.loads(about["sums"]))
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"it cannot be opened: {error}") from error

    @property
    def keys(self) -> Iterable[str]:
        """Of all entries."""
        return self._sums.keys()

    def read(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Entries of this shard, in main memory.

        Raises:
            DamagedError: one of them is not what was written.
            FileNotFoundError, PermissionError: the file is gone, or belongs to somebody else.
        """
        try:
            with safe_open(self.path, "pt") as file:
                names: dict[str, list[str]] = {key: [] for key in keys}
                for name in file.keys():  # noqa: SIM118 (not iterable by itself)
                    if name.partition(".")[0] in names:
                        names[name.partition(".")[0]].append(name)
                # Copied: mapped from the file they lie as it has them, and other alignments take other kernels
                found: dict[str, Entry] = {
                    key: {name.partition(".")[2]: file.get_tensor(name).clone() for name in own}
                    for key, own in names.items()
                }
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, SafetensorError, ValueError) as error:
            raise DamagedError(f"it cannot be read: {error}") from error
        for key, entry in found.items():
            if checksum(entry) != self._sums[key]:
                raise DamagedError(f"entry {key} does not match its checksum")
        return found


def checksum(entry: Entry) -> str:
    """16 hex digits of names, types, shapes and bits."""
    whole = blake2b(digest_size=8)
    for name, tensor in sorted(entry.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def size_of(entries: Iterable[Entry]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for entry in entries for tensor in entry.values())
