"""The hashes by which a record is known to be whole: of each line, with all before it, and of each file that it names.

Telemetry is in none of them. Records of schema 1 have no hashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.paths import inside

__all__ = ["changed_file", "file_sha256", "line_hash", "named_files", "refuse_other_data", "sound_lines"]


def line_hash(values: Mapping[str, Any], before: str) -> str:
    """16 hex digits of a line's values, its own hash apart, and of the hash of the line `before` (empty: the first)."""
    others = {name: value for name, value in values.items() if name != "hash"}
    text = json.dumps(others, sort_keys=True, ensure_ascii=False)
    return blake2b(f"{before}\n{text}".encode(), digest_size=8).hexdigest()


def sound_lines(lines: Sequence[str], folder: Path | None = None) -> tuple[list[str], str | None]:
    """The hashes of the lines of a record, from the first on, that are as they were written; and why the next is not.

    With a `folder`, the files that a line names have to lie there as they were recorded. Every line has to be an event.
    """
    hashes: list[str] = []
    for number, line in enumerate(lines, 1):
        values = json.loads(line)
        if values.get("hash") != line_hash(values, hashes[-1] if hashes else ""):
            return hashes, f"line {number} is not the one that was written there: it was changed, moved or repeated"
        if folder is not None:
            for name, digest in named_files(values).items():
                if wrong := changed_file(folder, name, digest):
                    return hashes, wrong
        hashes.append(values["hash"])
    return hashes, None


def file_sha256(path: Path) -> str:
    """64 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def named_files(values: Mapping[str, Any]) -> dict[str, str]:
    """The files that a line names, with their hashes; none where it has no hash of them."""
    held = {values["file"]: values["sha256"]} if values.get("sha256") else {}
    return held | values.get("model", {})


def changed_file(folder: Path, name: str, digest: str) -> str | None:
    """What is wrong with a file that a record names: it is missing, a link, or another one; None where it is whole."""
    path = inside(folder, name)
    if not path.is_file():
        return f"{name} is missing"
    try:
        is_same = file_sha256(path) == digest
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    return None if is_same else f"{name} is not the file that was recorded: its hash differs"


def refuse_other_data(path: Path, data: bytes, digest: str | None) -> None:
    """Raise DataError where the bytes read from a file are not those that were recorded."""
    if digest is not None and sha256(data).hexdigest() != digest:
        raise DataError(
            f"{path} is not the file that was recorded, its hash differs: restore it, or remove {path.parent} and run "
            "the cell again"
        )
