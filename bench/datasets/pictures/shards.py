"""Pictures and captions in tar files, as WebDataset has them: 000.jpg and 000.txt, or 000.json, one after another.

A sample is the files whose names are the same up to their first dot; source: the documentation of `webdataset`, "The
WebDataset Format". Nothing is unpacked, and no link within a shard is followed.
"""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from bench.api import DataError
from bench.canonical import config_hash
from bench.config.pictures import Data
from bench.datasets.pictures.caption_files import CAPTION_SUFFIXES, PICTURE_SUFFIXES
from bench.datasets.pictures.named_files import locate_picture, picture_bytes
from bench.datasets.pictures.rows import SEVERAL, LeftOut, PictureFault, PictureRow, captions_in, is_name, tag_text
from bench.reading import MIB, as_text, kind_of, parse_json

_BLOCK = 512  # bytes, of which a tar is made
_AHEAD = 16 * MIB  # looked at behind the end of a shard
_FIELDS = ("text", "caption", SEVERAL)  # of a sample's .json
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ")


class _Member(NamedTuple):
    """A file within a shard."""

    name: str
    offset: int
    size: int


class Shards:
    """The samples of one tar file after those of another."""

    def __init__(self, shards: Sequence[Path], settings: Data, note: str = "") -> None:
        """`note` says which of the shards of a folder these are."""
        if settings.pictures is not None:
            raise DataError("--data.pictures: expected none, for these pictures lie in the tar files: leave it out")
        if settings.rejected_column is not None:
            raise DataError("--data.rejected_column: expected none, for tar files hold no pairs: leave it out")
        self.form = f"WebDataset ({len(shards)} shard{'s' if len(shards) > 1 else ''}{note})"
        self._settings = settings
        self._places: dict[str, tuple[Path, _Member]] = {}
        self.rows: list[PictureRow] = []
        self.left_out: list[LeftOut] = []
        files = []
        for shard in shards:
            path = locate_picture(shard.parent, shard.name)
            self._open(shard.name, path)
            files.append([shard.name, path.stat().st_size, path.stat().st_mtime_ns])
        self.stamp = config_hash({"shards": files})

    def read(self, name: str) -> bytes:
        """The bytes of a picture; raises PictureFault where it is not to be had."""
        path, member = self._places[name]
        most = picture_bytes(self._settings.max_pixels)
        if member.size > most:
            raise PictureFault("enormous", f"{name!r} has {member.size:,} bytes, of which at most {most:,} are read")
        try:
            with path.open("rb") as file:
                return _content(file, member)
        except OSError as error:
            raise PictureFault("missing", f"{name!r} cannot be read: {error.strerror}") from error

    def _open(self, shard: str, path: Path) -> None:
        try:
            with path.open("rb") as file:
                samples = self._samples(shard, path, file)
                for key, sample in samples.items():
                    try:
                        self._add(f"{shard}/{key}", sample, path, file)
                    except PictureFault as fault:
                        self.left_out.append(LeftOut(f"{shard}/{key}", "", fault.kind, fault.detail))
        except OSError as error:
            raise DataError(f"{path}: expected a tar file, but it cannot be read: {error.strerror}") from error

    def _samples(self, shard: str, path: Path, file: Any) -> dict[str, dict[str, _Member]]:
        """The files of each sample by their ending, in the order of the shard."""
        samples: dict[str, dict[str, _Member]] = {}
        for info in _members(path, file):
            place, pure = f"{shard}/{info.name}", PurePosixPath(info.name)
            key, _, ending = pure.name.partition(".")
            if not is_name(info.name):
                shown = place.encode(errors="backslashreplace").decode()
                self.left_out.append(LeftOut(shown, "", "broken line", "its name is no text in UTF-8"))
            elif info.isdir() or not key:  # hidden files too
                continue
            elif pure.is_absolute() or ".." in pure.parts:
                self.left_out.append(LeftOut(place, "", "outside", "its name leads out of the shard"))
            elif not info.isreg() or info.sparse is not None:
                told = "it is no plain file, and nothing is followed: write the file itself into the shard"
                self.left_out.append(LeftOut(place, "", "outside", told))
            else:
                sample = samples.setdefault((pure.parent / key).as_posix(), {})
                if ending.lower() in sample:
                    self.left_out.append(LeftOut(place, "", "ambiguous", "the shard has a file of that name before"))
                sample.setdefault(ending.lower(), _Member(info.name, info.offset_data, info.size))
        return samples

    def _add(self, place: str, sample: Mapping[str, _Member], path: Path, file: Any) -> None:
        """Make a row of a sample; raises PictureFault where it is none."""
        wanted = self._settings.picture_column
        endings = [wanted] if wanted else [e for e in sample if f".{e}" in PICTURE_SUFFIXES]
        if not endings or endings[0] not in sample:
            raise PictureFault("no picture", f"it has {', '.join(f'.{e}' for e in sample)}, and no picture")
        if len(endings) > 1:
            told = f"it has {' and '.join(f'.{e}' for e in endings)}: name one by --data.picture_column {endings[0]}"
            raise PictureFault("ambiguous", told)
        fields = self._fields(sample, file)
        caption = self._caption(sample, fields, file)
        name = f"{place}.{endings[0]}"
        self._places[name] = path, sample[endings[0]]
        tag = fields.get(self._settings.tag_column or "tag")
        self.rows.append(PictureRow(name, place, caption, tag_text(tag)))

    def _fields(self, sample: Mapping[str, _Member], file: Any) -> dict[str, Any]:
        """What a sample's .json says; none where it has none."""
        if "json" not in sample:
            return {}
        try:
            found = parse_json(_text_bytes(file, sample["json"]))
        except ValueError as error:
            raise PictureFault("broken line", f"its .json: {error}") from error
        if not isinstance(found, dict):
            raise PictureFault("broken line", f"its .json: expected an object, got {type(found).__name__}")
        return found

    def _caption(self, sample: Mapping[str, _Member], fields: Mapping[str, Any], file: Any) -> object:
        """The text of its .txt or .caption, or a field of its .json."""
        wanted = self._settings.caption_column
        texts = [e for e in sample if e == wanted or (wanted is None and f".{e}" in CAPTION_SUFFIXES)]
        if len(texts) > 1:
            raise PictureFault("ambiguous", f"it has {' and '.join(f'.{e}' for e in texts)}: keep one")
        if not texts:
            field = wanted or next((name for name in _FIELDS if name in fields), None)
            if field not in fields:
                told = f"a .{wanted}, or {wanted!r} in its .json" if wanted else "a .txt, or a text in its .json"
                raise PictureFault("no caption", f"expected {told}; it has {', '.join(f'.{e}' for e in sample)}")
            return fields[str(field)]
        try:
            found = captions_in(as_text(_text_bytes(file, sample[texts[0]])))
        except ValueError as error:
            raise PictureFault("unreadable caption", f"its .{texts[0]}: {error}") from error
        if not found:
            raise PictureFault("no caption", f"its .{texts[0]} is empty")
        return found


def _members(path: Path, file: Any) -> list[tarfile.TarInfo]:
    """What a shard holds.

    Raises:
        DataError: it is no tar, a compressed one, or is cut short or goes on behind its end.
    """
    kind = path.stat().st_mode
    if not path.is_file():
        raise DataError(f"{path}: expected a tar file, but it is {kind_of(kind)}")
    if file.read(6).startswith(_COMPRESSED):
        raise DataError(f"{path} is compressed, and pictures are read from any place in it: unpack it to a plain .tar")
    file.seek(0)
    found: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            found.extend(tar)
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{path} is cut short or damaged after {len(found)} files ({error}): get it again") from error
    file.seek(end)
    rest = file.read(_AHEAD)
    if len(rest) < _BLOCK or any(rest[:_BLOCK]):
        raise DataError(f"{path} is cut short or damaged after {len(found)} files: get it again")
    if any(rest):
        raise DataError(
            f"{path} goes on behind its end, after {len(found)} files, as joined tar files do: give each by itself"
        )
    return found


def _content(file: Any, member: _Member) -> bytes:
    file.seek(member.offset)
    data: bytes = file.read(member.size)
    if len(data) < member.size:
        raise OSError(errno.EIO, "the shard ends before it", member.name)
    return data


def _text_bytes(file: Any, member: _Member) -> bytes:
    if member.size > MIB:
        raise ValueError(f"{member.size:,} bytes, of which at most {MIB:,} are read here")
    return _content(file, member)
