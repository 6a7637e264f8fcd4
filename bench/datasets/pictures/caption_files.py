"""Pictures in folders, each with its captions in a text file beside it: a.png and a.txt, or a.caption; one a line.

In kohya's layout a folder below, `10_NAME`, says how often an epoch shows its pictures; source: the documentation of
kohya-ss/sd-scripts, "Preparing training data". NAME itself is read as nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bench.api import DataError
from bench.canonical import config_hash
from bench.config.pictures import Data
from bench.datasets.pictures.named_files import locate_picture, read_picture_file
from bench.datasets.pictures.rows import LeftOut, PictureFault, PictureRow, captions_in, is_name, refuse_columns
from bench.reading import MIB, read_text

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic",
    ".heif",
)  # fmt: skip
CAPTION_SUFFIXES = (".txt", ".caption")
_MOST_REPEATS = 10_000
_REPEATS = re.compile(r"(\d+)_.*", re.DOTALL)


class CaptionedFiles:
    """All pictures of a folder and of those below, but hidden ones, and the caption files beside them.

    Links are not followed, but those of a snapshot in the hub's cache.
    """

    def __init__(self, folder: Path, settings: Data) -> None:
        self._settings = settings
        self._folder = folder
        self._max_pixels = settings.max_pixels
        self.rows: list[PictureRow] = []
        self.left_out: list[LeftOut] = []
        self._others = 0
        pictures, captions = self._found()
        for name, stem in pictures.items():
            self._add(name, captions.get(stem, []))
        self.pictures = len(pictures)
        stems = set(pictures.values())
        for stem, names in captions.items():
            if stem not in stems:
                fault = "there is no picture of that name beside it"
                self.left_out += [LeftOut(name, "", "no picture", fault) for name in names]
        self._is_captioned = not stems.isdisjoint(captions)
        if self._is_captioned:
            refuse_columns("captions beside pictures", settings)
        kinds = sorted({PurePosixPath(name).suffix for names in captions.values() for name in names})
        unread = f"; {self._others} other files unread" if self._others else ""
        self.form = f"captions beside pictures ({', '.join(kinds)}){unread}"
        about = [[row.name, row.caption, row.repeats, *self._stat(row.name)] for row in self.rows]
        self.stamp = config_hash({"files": about, "left_out": [[row.place, row.detail] for row in self.left_out]})

    @property
    def is_captioned(self) -> bool:
        """Whether a picture has a caption file, so that this is the form in which they lie."""
        return self._is_captioned

    def read(self, name: str) -> bytes:
        """The bytes of a picture; raises PictureFault where there is none, or where it lies elsewhere."""
        return read_picture_file(self._folder, name, self._max_pixels)

    def _found(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The pictures, each with its stem, and the caption files by their stem; all as seen from the folder."""
        pictures: dict[str, str] = {}
        captions: dict[str, list[str]] = {}
        for name in self._names():
            suffix = PurePosixPath(name).suffix
            stem = name.removesuffix(suffix)
            if not is_name(name):
                shown = name.encode(errors="backslashreplace").decode()
                self.left_out.append(LeftOut(shown, "", "broken line", "its name is no text in UTF-8: rename it"))
            elif suffix.lower() in PICTURE_SUFFIXES:
                pictures[name] = stem
            elif suffix.lower() in CAPTION_SUFFIXES:
                captions.setdefault(stem, []).append(name)
            else:
                self._others += 1
        return pictures, captions

    def _names(self) -> Iterator[str]:
        """All files but hidden ones, in the order of their names."""

        def refuse(error: OSError) -> None:
            raise DataError(f"{error.filename}: expected a folder of pictures, but it cannot be read: {error.strerror}")

        for place, folders, files in os.walk(self._folder, onerror=refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = Path(place).relative_to(self._folder)
            for name in [name for name in folders if (Path(place) / name).is_symlink()]:
                told = "it is a link to a folder, which is not followed: put the folder itself there"
                self.left_out.append(LeftOut((below / name).as_posix(), "", "outside", told))
            yield from ((below / name).as_posix() for name in sorted(files) if not name.startswith("."))

    def _add(self, name: str, captions: list[str]) -> None:
        try:
            self.rows.append(PictureRow(name, name, self._captions(name, captions), repeats=self._repeats(name)))
        except PictureFault as fault:
            self.left_out.append(LeftOut(name, name, fault.kind, fault.detail))

    def _captions(self, name: str, files: list[str]) -> list[str]:
        """What the caption file of a picture says; raises PictureFault where there is none, or more than one."""
        if not files:
            stem = PurePosixPath(name).stem
            raise PictureFault("no caption", f"there is no {stem}.txt or {stem}.caption beside it")
        if len(files) > 1:
            raise PictureFault("ambiguous", f"it has {' and '.join(files)}: keep one")
        path = locate_picture(self._folder, files[0])
        try:
            found = captions_in(read_text(path, MIB))
        except OSError as error:
            raise PictureFault("no caption", f"{files[0]} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise PictureFault("unreadable caption", f"{files[0]}: {error}") from error
        if not found:
            raise PictureFault("no caption", f"{files[0]} is empty")
        return found

    def _repeats(self, name: str) -> int:
        """How often an epoch shows a picture."""
        found = _REPEATS.fullmatch(PurePosixPath(name).parts[0]) if "/" in name else None
        if found is None:
            return 1
        repeats = int(found[1]) if len(found[1]) <= 5 else _MOST_REPEATS + 1
        if not 1 <= repeats <= _MOST_REPEATS:
            raise DataError(
                f"{self._folder / PurePosixPath(name).parts[0]}: expected from 1 to {_MOST_REPEATS:,} repeats before "
                "the _ (as in 10_NAME): rename the folder"
            )
        return repeats

    def _stat(self, name: str) -> list[int]:
        """What changes when a file does, without reading it."""
        try:
            about = locate_picture(self._folder, name).stat()
        except (PictureFault, OSError):
            return []
        return [about.st_size, about.st_mtime_ns]
