"""Files that appear whole or not at all: written under another name, synced, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; what stands there at the end becomes `path`, so a crash leaves old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    yield temporary
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_whole(path: Path, data: bytes) -> None:
    """Store bytes by `appears_whole`."""
    with appears_whole(path) as temporary:
        temporary.write_bytes(data)
