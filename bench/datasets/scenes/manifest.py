"""The hashes of the embedded world's models: one flipped bit in a weight still loads, and gives other numbers.

`assets/SHA256SUMS` holds them as sha256sum writes them, so `sha256sum --check SHA256SUMS` reads it too. The export of
`bench pretrain` makes it anew.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from bench.api import DataError

ASSETS = Path(__file__).parent / "assets"
MANIFEST = "SHA256SUMS"


def write_manifest(assets: Path) -> None:
    """Store the hash of every file below `assets`."""
    files = sorted(path for path in assets.rglob("*") if path.is_file() and path.name != MANIFEST)
    lines = [f"{_digest(path)}  {path.relative_to(assets).as_posix()}\n" for path in files]
    (assets / MANIFEST).write_text("".join(lines), encoding="utf-8")


@cache
def check_manifest(folder: Path) -> None:
    """Compare the files of one folder of the assets with their hashes, once a process (11 MB take some 20 ms).

    Raises:
        DataError: a file is missing or has changed, or nothing says what the folder should hold.
    """
    manifest = folder.parent / MANIFEST
    listed = _read(manifest) if manifest.is_file() else {}
    files = {name: digest for name, digest in listed.items() if name.startswith(f"{folder.name}/")}
    if not files:
        raise DataError(f"{manifest}: expected the hashes of {folder}, but there are none. {_mend(manifest)}")
    for name, expected in files.items():
        path = folder.parent / name
        came = _digest(path) if path.is_file() else "no file"
        if came != expected:
            raise DataError(
                f"{path}: expected the file that was exported, with SHA-256 {expected}, got {came}: it is damaged, or "
                f"was changed. {_mend(path)}"
            )


def _read(manifest: Path) -> dict[str, str]:
    """{file: SHA-256}; a damaged line gives a hash or a name that nothing has."""
    lines = manifest.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mend(path: Path) -> str:
    return f"Restore it: `git checkout -- {path}`, or install the package again"
