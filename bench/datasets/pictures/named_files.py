"""Picture files that a listing or a table names: found within their folder, and read within bounds.

A snapshot in the hub's cache is a folder of links to the blobs of its repository: these alone are followed.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

from bench.api import DataError
from bench.datasets.pictures.rows import PictureFault
from bench.paths import NoFileError, inside
from bench.reading import MIB, read_file

_PIXEL_BYTES = 4  # no picture that is allowed has more, even stored raw
_METADATA = 64 * MIB


def picture_bytes(max_pixels: int) -> int:
    """The most bytes that a file with a picture of so many pixels may have."""
    return max_pixels * _PIXEL_BYTES + _METADATA


def locate_picture(folder: Path, name: str) -> Path:
    """Where a picture lies that is named as seen from `folder`, whether it is there or not.

    Raises:
        PictureFault: it would lie elsewhere, or is named in another way.
    """
    try:
        return _hub_blob(folder, name) or inside(folder, name)
    except NoFileError as error:
        raise PictureFault("missing", f"{name!r} cannot be read: {error}") from error
    except DataError as error:
        raise _why_outside(folder, name) from error
    except (OSError, ValueError) as error:
        raise PictureFault("missing", f"{name!r} in {folder}: {getattr(error, 'strerror', error)}") from error


def _hub_blob(folder: Path, name: str) -> Path | None:
    """What a link in a snapshot of the hub's cache points to, if that is a blob of the same repository; else None.

    Source: the documentation of `huggingface_hub`, "Understand caching": <repository>/snapshots/<commit>/NAME is a link
    to <repository>/blobs/<hash>.
    """
    pure = PurePosixPath(name)
    if not pure.name or pure.is_absolute() or ".." in pure.parts or "\0" in name or not (folder / name).is_symlink():
        return None
    here = folder.resolve()
    blobs = next((at.parent.parent / "blobs" for at in (here, *here.parents) if at.parent.name == "snapshots"), None)
    if blobs is None:
        return None
    above = inside(folder, str(pure.parent)) if len(pure.parts) > 1 else folder  # no folder on the way is a link
    target = Path(os.path.realpath(above / pure.name))
    return target if target.parent == blobs else None


def read_picture_file(folder: Path, name: str, max_pixels: int) -> bytes:
    """The bytes of a picture in `folder`; raises PictureFault where there is none, or where it lies elsewhere."""
    path = locate_picture(folder, name)
    try:
        return read_file(path, picture_bytes(max_pixels))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureFault("missing", f"there is no file {name!r} in {folder}") from error
    except OSError as error:
        kind = "enormous" if error.errno == errno.EFBIG else "missing"
        raise PictureFault(kind, f"{name!r} cannot be read: {error.strerror}") from error


def _why_outside(folder: Path, name: str) -> PictureFault:
    """Why a name is none of a file in the folder."""
    if "\\" in name:
        return PictureFault(
            "backslashes", f"{name!r}: expected slashes between folders, {name.replace(chr(92), '/')!r}"
        )
    if PurePosixPath(name).is_absolute():
        told = f"{name!r}: expected a path as seen from {folder}"
        below = next(
            (p for p in (folder, folder.absolute(), folder.resolve()) if PurePosixPath(name).is_relative_to(p)), None
        )
        if below is not None:
            return PictureFault("absolute path", f"{told}, {str(PurePosixPath(name).relative_to(below))!r}")
        return PictureFault("outside", f"{told}, and it leads out of it")
    return PictureFault("outside", f"{name!r} is a link, or leads out of {folder}")
