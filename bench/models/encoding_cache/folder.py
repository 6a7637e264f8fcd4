"""Where encodings lie, and the size of what is there; without torch, for those who only tell it."""

from __future__ import annotations

from pathlib import Path

from bench.paths import cache_folder

SUFFIX = ".safetensors"


def folder_of_all() -> Path:
    """The folder of the encodings of all runs."""
    return cache_folder() / "encoded"


def files_of(folder: Path) -> dict[str, tuple[int, float]]:
    """Bytes and time of last use of every shard, by name."""
    found = {}
    for path in folder.glob(f"[!.]*{SUFFIX}"):
        try:
            stat = path.stat()
        except FileNotFoundError:  # removed meanwhile
            continue
        found[path.name] = (stat.st_size, stat.st_mtime)
    return found


def size_of_all(folder: Path) -> int:
    """Bytes of all shards."""
    return sum(size for size, _ in files_of(folder).values())
