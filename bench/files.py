"""Files and folders that appear whole or not at all: written under another name, synced, then renamed.

A crash at any point, power loss included, leaves the old content or the new one; what it leaves under the other name is
removed by `remove_parts`. An operating system's refusal (full disk, no permission) becomes one DataError.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.api import DataError

_PART = ".part"


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; what stands there at the end becomes `path`.

    Raises:
        DataError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    with disk_errors(path):
        _make_folder(path.parent)
        try:
            yield temporary
            for written in [*temporary.rglob("*"), temporary] if temporary.is_dir() else [temporary]:
                _sync(written)
            if path.is_dir() and temporary.is_dir():  # only empty folders can be renamed over
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            _remove(temporary)  # where it did not become `path`, for whatever reason
        _sync(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Store bytes by `appears_whole`."""
    with appears_whole(path) as temporary:
        temporary.write_bytes(data)


def append_whole(path: Path, data: bytes) -> None:
    """Add bytes to a file and sync it; where that is refused, the file keeps its old content.

    Raises:
        DataError: the disk is full or the file cannot be written.
    """
    with disk_errors(path):
        _make_folder(path.parent)
        is_new = not path.exists()
        with path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
        if is_new:
            _sync(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left under temporary names; call it only while nobody else writes there."""
    for path in folder.glob(f".*.[0-9]*{_PART}"):
        _remove(path)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there; a folder in its place is nobody's that we know of, and stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one message that says how to mend them."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; expected a folder, but a file stands in its place: move "
            "that file, or choose another folder"
        ) from error
    except IsADirectoryError as error:
        raise DataError(f"cannot write {path}: expected a file, but a folder stands in its place: move it") from error
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; expected a writable place with room left: free some "
            "space or mend the permissions and give the same command again, or choose another place"
        ) from error


def _make_folder(folder: Path) -> None:
    """Create a folder with its parents, each one durable."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
