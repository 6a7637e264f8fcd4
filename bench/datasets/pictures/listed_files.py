"""Pictures in a folder that a file lists: Hugging Face's ImageFolder (.jsonl, .csv), .json and .tsv, HY-SOAR's .jsonl.

ImageFolder: {"file_name": "a.png", "text": "a cat"}, or a CSV file with these columns; source: the documentation of
`datasets`, "Create an image dataset". A .json file is a list of such objects; in a .tsv file tabs part the cells, and
quotes are letters. Several captions are a list, in JSON in the column `captions` of a .csv or .tsv file.

HY-SOAR: {"md5": "0f3e...", "caption_en": "a cat", "bw": 512, "bh": 512}, pictures in `<md5>.jpg`; source: the README of
Tencent-Hunyuan/HY-SOAR.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.canonical import config_hash, hash_file
from bench.config.pictures import Data
from bench.datasets.pictures.named_files import locate_picture, read_picture_file
from bench.datasets.pictures.pairs import pair_columns
from bench.datasets.pictures.rows import (
    SEVERAL,
    LeftOut,
    PictureFault,
    PictureRow,
    is_name,
    require_column,
    tag_text,
)
from bench.reading import looks_like_utf16, parse_json, read_file

LISTINGS = (".jsonl", ".csv", ".json", ".tsv")
SOAR_COLUMNS = ("md5", "caption_en")
_REPLACED = "\ufffd"
_MOST_BYTES = 2**32  # of a listing: tens of millions of lines
_EXAMPLES = {
    ".jsonl": '{"file_name": "a.png", "text": "a cat"}',
    ".csv": 'a.png,"a cat, asleep" below the columns file_name,text',
    ".tsv": "a.png, a tab, and a cat, below the columns file_name and text",
    ".json": '[{"file_name": "a.png", "text": "a cat"}]',
}

# (where it stands, the fields, or why it has none)
Line = tuple[str, dict[str, Any] | None, str]


class ListedPictures:
    """Files of one folder that a file names, by whose ending it is read."""

    def __init__(self, listing: Path, settings: Data) -> None:
        lines = list(_READERS[listing.suffix](listing))
        _refuse_unreadable(listing, lines)
        found: dict[str, None] = {}
        for _, fields, _ in lines:
            found |= dict.fromkeys(fields or ())
        is_soar = listing.suffix == ".jsonl" and "md5" in found and "file_name" not in found
        self.form = f"{'HY-SOAR' if is_soar else 'ImageFolder'} ({listing.name})"
        self._folder = Path(settings.pictures) if settings.pictures else listing.parent
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}: expected the folder of the pictures; give it by --data.pictures")
        defaults = SOAR_COLUMNS if is_soar else ("file_name", "text")
        picture, caption, pairs = pair_columns(listing, settings, defaults, found)
        tag = require_column(listing, "tag", settings.tag_column, found) if settings.tag_column else "tag"
        self._suffix = ".jpg" if is_soar else ""
        self._max_pixels = settings.max_pixels
        self.rows: list[PictureRow] = []
        self.left_out: list[LeftOut] = []
        for place, fields, problem in lines:
            name = ""
            try:
                if fields is None:
                    raise PictureFault("broken line", problem)
                columns = pairs.ranked(fields) if pairs else (picture,)
                name, *others = (self._file(fields, column) for column in columns)
                is_in_cell = caption == SEVERAL and listing.suffix in (".csv", ".tsv")
                texts = _json_list(fields[caption]) if is_in_cell else fields.get(caption)
            except PictureFault as fault:
                self.left_out.append(LeftOut(place, name, fault.kind, fault.detail))
                continue
            tagged, bucket = tag_text(fields.get(tag)), _bucket(fields)
            rejected = others[0] if others else None
            self.rows.append(PictureRow(name, place, texts, tagged, bucket, rejected))
        files = [name for row in self.rows for name in (row.name, row.rejected) if name is not None]
        self.stamp = config_hash({"listing": hash_file(listing), "files": [self._stat(name) for name in files]})

    def _file(self, fields: Mapping[str, Any], column: str) -> str:
        """The file that a line names in a column; raises PictureFault where it names none."""
        if not is_name(fields.get(column)):
            raise PictureFault("broken line", f"its {column!r} is no file name: {fields.get(column)!r}")
        return f"{fields[column]}{self._suffix}"

    def read(self, name: str) -> bytes:
        """The bytes of a file of the folder; raises PictureFault where there is none, or where it lies elsewhere."""
        return read_picture_file(self._folder, name, self._max_pixels)

    def _stat(self, name: str) -> list[Any]:
        """What changes when a file does, without reading it."""
        try:
            about = locate_picture(self._folder, name).stat()
        except (PictureFault, OSError):
            return [name]
        return [name, about.st_size, about.st_mtime_ns]


def _content(path: Path) -> bytes:
    try:
        return read_file(path, _MOST_BYTES)
    except OSError as error:
        raise DataError(f"{path}: expected a listing of pictures, but it cannot be read: {error.strerror}") from error


def _refuse_unreadable(listing: Path, lines: Sequence[Line]) -> None:
    """Say why, where not a single line can be read: of columns nothing is known then."""
    if any(fields is not None for _, fields, _ in lines):
        return
    wanted = f"expected {'an object' if listing.suffix == '.json' else 'a line'} for each picture, like "
    wanted += _EXAMPLES[listing.suffix]
    if not lines:
        raise DataError(f"{listing} lists no pictures: {wanted}")
    place, _, problem = lines[0]
    raise DataError(f"{listing}: none of its lines can be read, the first of them ({place}): {problem}; {wanted}")


def _json_lines(path: Path) -> Iterator[Line]:
    for number, line in enumerate(_content(path).split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            fields = parse_json(line)
        except ValueError as error:
            yield place, None, f"not JSON: {error}"
            continue
        if isinstance(fields, dict):
            yield place, fields, ""
        else:
            yield place, None, f"expected an object, got {type(fields).__name__}"


def _json_items(path: Path) -> Iterator[Line]:
    try:
        items = parse_json(_content(path))
    except ValueError as error:
        raise DataError(f"{path}: expected a list of pictures, like {_EXAMPLES['.json']}: {error}") from error
    if not isinstance(items, list):
        raise DataError(f"{path}: expected a list of pictures, like {_EXAMPLES['.json']}, got {type(items).__name__}")
    for number, fields in enumerate(items):
        place = f"{path.name}[{number}]"
        if isinstance(fields, dict):
            yield place, fields, ""
        else:
            yield place, None, f"expected an object, got {type(fields).__name__}"


def _json_list(text: object) -> list[Any]:
    """The captions in a cell of a table of text; raises PictureFault where it holds no list of them."""
    try:
        found = parse_json(str(text))
    except ValueError:
        found = None
    if not isinstance(found, list):
        told = f'its {SEVERAL!r} are no list in JSON, like ["a cat", "a cat asleep"]: {text!r}'
        raise PictureFault("broken line", told)
    return found


def _csv_lines(path: Path) -> Iterator[Line]:
    yield from _table_lines(path, "CSV", {"strict": True})


def _tsv_lines(path: Path) -> Iterator[Line]:
    yield from _table_lines(path, "TSV", {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def _table_lines(path: Path, form: str, dialect: dict[str, Any]) -> Iterator[Line]:
    data = _content(path)
    if looks_like_utf16(data):
        yield f"{path.name}:1", None, "not UTF-8 text: it looks like UTF-16, so save it as UTF-8"
        return
    text = data.decode("utf-8-sig", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""), **dialect)
    head: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path.name}:{reader.line_num}", None, f"not {form}: {error}"
            continue
        place = f"{path.name}:{reader.line_num}"
        if head is None:
            head = cells
        elif len(cells) != len(head):
            if cells:
                is_more = len(cells) > len(head) and form == "CSV"
                more = "; a text with commas stands in double quotes" if is_more else ""
                yield place, None, f"expected {len(head)} cells, got {len(cells)}{more}"
        elif any(_REPLACED in cell for cell in cells):
            yield place, None, "not UTF-8 text"
        else:
            yield place, dict(zip(head, cells, strict=True)), ""


def _bucket(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = fields.get("bw"), fields.get("bh")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


_READERS = {".jsonl": _json_lines, ".json": _json_items, ".csv": _csv_lines, ".tsv": _tsv_lines}
