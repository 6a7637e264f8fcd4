"""Looks at every picture and every caption before anything is trained: what can be used, what is left out and why.

The result is kept in the cache, so that workers and later runs read it; a changed file, setting or tokenizer makes it
anew. Pictures are named by the hash of their bytes, and checked against it when they are read again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from bench.api import DataError
from bench.canonical import config_hash
from bench.config.pictures import Data
from bench.datasets.buckets import Size, assign_buckets
from bench.datasets.pictures.decoding import Crop, decoder_of, middle_crop, open_picture
from bench.datasets.pictures.model_limits import CaptionLimits, ReadCaptions
from bench.datasets.pictures.rows import FAULT_KINDS, NOT_BROKEN, LeftOut, PictureFault, PictureRow, PictureSource
from bench.files import appears_whole, write_whole
from bench.paths import cache_folder, inside, portable

VERSION = "1"  # of what training sees of a picture; raise it with every change of how one is cropped or brought to size
_LOOKED = "4"  # raise it with every change that can change what is left out, or what is kept of a picture
PICTURES, LEFT_OUT = "pictures.parquet", "left-out.csv"
_SHOWN_FROM = 2000  # rows from which a progress bar is worth its line


@dataclass(frozen=True)
class Picture:
    """A row that can be used: the hash of its bytes, its caption and tag, how it is cropped, and whether its colours
    are brought to sRGB from another profile.

    more: its captions beside the first. cut, unread: how many of them all, as in `ReadCaptions`. repeats: how often an
    epoch shows it. decoder: what reads it, where that is not Pillow itself. rejected: the picture that was rejected for
    it, with the same caption, tag, `more` and `repeats`.
    """

    name: str
    digest: str
    caption: str
    tag: str | None
    crop: Crop
    has_profile: bool = False
    more: tuple[str, ...] = ()
    cut: int = 0
    unread: int = 0
    repeats: int = 1
    decoder: str = ""
    rejected: Picture | None = None

    def prepared_digest(self, size: Size) -> str:
        """What names its pixels, cropped and brought to a size: the file, how it is prepared, and by which Pillow."""
        cut = middle_crop(self.crop.width, self.crop.height, size, self.crop.on_white)
        colours = " to sRGB" if self.has_profile else ""
        by = f" by {self.decoder}" if self.decoder else ""
        return f"{VERSION} {PIL.__version__} {self.digest} {tuple(cut)}{colours}{by}"


@dataclass(frozen=True)
class InspectedPictures:
    """Every row of a source: `kept` in their order, `left_out` with their faults; `folder` holds both as files."""

    kept: tuple[Picture, ...]
    left_out: tuple[LeftOut, ...]
    folder: Path
    other_buckets: int

    @property
    def rows(self) -> int:
        """Rows that were listed, broken lines included."""
        return len(self.kept) + len(self.left_out)

    @property
    def broken(self) -> int:
        """Rows left out that are broken, and not only undecided."""
        return sum(row.kind not in NOT_BROKEN for row in self.left_out)

    @property
    def share_broken(self) -> float:
        """Of all rows, 0 to 1."""
        return self.broken / max(1, self.rows)

    def kinds(self) -> dict[str, int]:
        """Rows left out, by kind of fault."""
        counts = Counter(row.kind for row in self.left_out)
        return {kind: counts[kind] for kind in FAULT_KINDS if counts[kind]}


def inspect_pictures(
    source: PictureSource, settings: Data, captions: CaptionLimits, sizes: Sequence[Size], resolution: int
) -> InspectedPictures:
    """Look at all rows of a source, or read what was found when nothing has changed since.

    `sizes` are those of the aspect buckets, or the square of `resolution` alone.

    Raises:
        DataError: more rows are broken than `settings.allow_broken`, or none is left.
    """
    key = {
        "version": _LOOKED, "source": source.stamp, "form": source.form, "path": str(Path(settings.path).resolve()),
        "columns": [settings.picture_column, settings.rejected_column, settings.caption_column, settings.tag_column,
                    settings.pictures],
        "subset": settings.subset, "max_pixels": settings.max_pixels, "captions": captions.fingerprint,
        "resolution": resolution,
    }  # fmt: skip
    if settings.buckets is not None:
        key["buckets"] = [*sizes, settings.bucket_pictures]
    folder = cache_folder() / "data" / config_hash(key)
    found = _read(folder) if folder.is_dir() else None
    if found is None:
        found = _inspect(source, settings, captions, sizes, folder)
        _write(found)
    _refuse_too_many(found, settings)
    return found


def _inspect(
    source: PictureSource, settings: Data, captions: CaptionLimits, sizes: Sequence[Size], folder: Path
) -> InspectedPictures:
    def look(row: PictureRow) -> _Seen | PictureFault:
        try:
            data = source.read(row.name)
            picture, on_white, has_profile = open_picture(data, settings.max_pixels)
        except PictureFault as fault:
            return fault
        seen = _Seen(row, digest_of(data), picture.size, on_white, has_profile, decoder_of(data))
        if row.rejected is None:
            return seen
        other = look(replace(row, name=row.rejected, rejected=None))
        if isinstance(other, PictureFault):
            return PictureFault(other.kind, f"the rejected one, {row.rejected!r}: {other.detail}")
        if seen.digest == other.digest:
            return PictureFault("duplicate", "the chosen and the rejected picture are the same bytes")
        return replace(seen, rejected=other)

    texts = captions.read([row.caption for row in source.rows])
    kept: dict[str, tuple[_Seen, ReadCaptions]] = {}
    left_out = list(source.left_out)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked = _with_progress(pool.map(look, source.rows), len(source.rows))
        for row, found, text in zip(source.rows, looked, texts, strict=True):
            if isinstance(found, PictureFault):
                fault = found
            elif isinstance(text, PictureFault):
                fault = text
            elif found.digests in kept:
                fault = PictureFault("duplicate", f"the same bytes as {kept[found.digests][0].row.name!r}")
            else:
                kept[found.digests] = found, text
                continue
            left_out.append(LeftOut(row.place, row.name, fault.kind, fault.detail))
    to = assign_buckets([s.shape for s, _ in kept.values()], sizes, settings.bucket_pictures)
    others = sum(s.row.bucket not in (None, size) for (s, _), size in zip(kept.values(), to, strict=True))
    pictures = tuple(s.picture(text, size) for (s, text), size in zip(kept.values(), to, strict=True))
    return InspectedPictures(pictures, tuple(left_out), folder, others)


@dataclass(frozen=True)
class _Seen:
    """A row whose picture can be used: the hash of its bytes, its size upright, and what `OpenedPicture` tells."""

    row: PictureRow
    digest: str
    shape: Size
    on_white: bool
    has_profile: bool
    decoder: str
    rejected: _Seen | None = None

    @property
    def digests(self) -> str:
        """Of its bytes, and of those of the rejected one."""
        return self.digest if self.rejected is None else f"{self.digest} {self.rejected.digest}"

    def picture(self, captions: ReadCaptions, to: Size) -> Picture:
        """What is kept of it, brought to a size."""
        first, *more = captions.texts
        return Picture(
            self.row.name, self.digest, first, self.row.tag, middle_crop(*self.shape, to, self.on_white),
            self.has_profile, tuple(more), captions.cut, captions.unread, self.row.repeats, self.decoder,
            None if self.rejected is None else self.rejected.picture(captions, to),
        )  # fmt: skip


def digest_of(data: bytes) -> str:
    """16 hex digits of a picture's bytes."""
    return blake2b(data, digest_size=8).hexdigest()


def _with_progress(results: Iterable[Any], total: int) -> Iterable[Any]:
    """The results, under a progress bar where there are many and somebody watches."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    quiet = total < _SHOWN_FROM or not console.is_terminal
    return track(results, "looking at pictures", total, console=console, transient=True, disable=quiet)


def _refuse_too_many(found: InspectedPictures, settings: Data) -> None:
    where = f"all are listed in {found.folder / LEFT_OUT}"
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds().items())
    if not found.kept:
        raise DataError(
            f"--data {settings.path}: expected captioned pictures, but none of its {found.rows} rows can be used"
            + (f" ({kinds}); {where}" if found.rows else ": the listing is empty")
        )
    if found.share_broken > settings.allow_broken:
        raise DataError(
            f"--data {settings.path}: {found.broken} of {found.rows} rows are broken ({kinds}), "
            f"{found.share_broken:.1%}, and {settings.allow_broken:.1%} are allowed; {where}: mend them, or go on "
            f"without them by --allow-broken {_rounded_up(found.share_broken)}"
        )


def _rounded_up(share: float) -> float:
    return min(1.0, int(share * 100 + 1) / 100)


# What is kept

_PLAIN = ("has_profile", "cut", "unread", "repeats", "decoder")  # columns that are fields


def _write(found: InspectedPictures) -> None:
    """Both lists as files of one folder; a folder of another process that was quicker holds the same."""
    columns: dict[str, list[Any]] = {
        "name": [p.name for p in found.kept], "digest": [p.digest for p in found.kept],
        "caption": [p.caption for p in found.kept], "tag": [p.tag for p in found.kept],
    }  # fmt: skip
    columns |= {name: [getattr(p, name) for p in found.kept] for name in _PLAIN}
    columns["more"] = pa.array([list(p.more) for p in found.kept], pa.list_(pa.string()))
    columns |= {field: [getattr(p.crop, field) for p in found.kept] for field in Crop._fields}
    if any(p.rejected for p in found.kept):
        columns["rejected"] = [p.rejected and _rejected(p.rejected) for p in found.kept]
    about = {"other_buckets": str(found.other_buckets)}
    table = pa.table(columns).replace_schema_metadata(about)
    with appears_whole(found.folder) as temporary:
        temporary.mkdir()
        pq.write_table(table, temporary / PICTURES)
        (temporary / LEFT_OUT).write_bytes(csv_bytes(("place", "name", "kind", "detail"), _cells(found.left_out)))


def _read(folder: Path) -> InspectedPictures | None:
    """What `_write` wrote; None where a file of it is missing or damaged, for it can be made again."""
    try:
        table = pq.read_table(folder / PICTURES)
        rows = table.to_pylist()
        with (folder / LEFT_OUT).open(encoding="utf-8", newline="") as file:
            left_out = [LeftOut(**cells) for cells in csv.DictReader(file)]
        names = ("name", "digest", "caption", "tag", *_PLAIN)

        def picture(row: dict[str, Any], rejected: Picture | None = None) -> Picture:
            cells = {name: row[name] for name in names}
            crop = Crop(*(row[field] for field in Crop._fields))
            return Picture(crop=crop, more=tuple(row["more"]), **cells, rejected=rejected)

        others = (row.get("rejected") for row in rows)
        kept = tuple(picture(row, other and picture(row | other)) for row, other in zip(rows, others, strict=True))
        return InspectedPictures(kept, tuple(left_out), folder, int(table.schema.metadata[b"other_buckets"]))
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        return None


def _rejected(picture: Picture) -> dict[str, Any]:
    """What is kept of a rejected picture, where it differs from the chosen one."""
    own = {name: getattr(picture, name) for name in ("name", "digest", "has_profile", "decoder")}
    return own | picture.crop._asdict()


def _cells(left_out: Sequence[LeftOut]) -> list[tuple[str, ...]]:
    return [(row.place, row.name, row.kind, row.detail) for row in left_out]


def csv_bytes(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def copy_lists(found: InspectedPictures, folder: Path) -> None:
    """Keep both lists beside the results that were made of these pictures; the one of faults without absolute paths.

    Raises:
        DataError: a link stands in the place of one.
    """
    for name in (PICTURES, LEFT_OUT):
        data = (found.folder / name).read_bytes()
        data = portable(data.decode()).encode() if name == LEFT_OUT else data
        write_whole(inside(folder.parent, f"{folder.name}/{name}"), data)


def pictures_fingerprint(found: InspectedPictures, resolution: int, chosen: Sequence[str] | None) -> str:
    """16 hex digits of what training sees: pictures, captions, tags, sizes, colours, and the choice among them."""
    square = (resolution, resolution)

    def unusual(p: Picture) -> list[object]:
        several = [["captions", *p.more]] if p.more else []
        return [*(() if p.crop.to == square else p.crop.to), *p.has_profile * ["sRGB"], *several, *_repeated(p)]

    rows = [[p.name, p.digest, p.caption, p.tag, *unusual(p)] for p in found.kept]
    pairs = [[p.rejected.name, p.rejected.digest, p.rejected.has_profile] for p in found.kept if p.rejected]
    named = None if chosen is None else sorted(chosen)
    text = json.dumps([VERSION, resolution, rows, named, *([pairs] if pairs else [])])
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _repeated(picture: Picture) -> list[object]:
    return [] if picture.repeats == 1 else [["repeats", picture.repeats]]
