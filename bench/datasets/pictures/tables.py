"""Pictures stored in tables, with their captions in the next column: parquet files, saved datasets, the hub's datasets.

A picture is what `datasets` calls an Image (bytes, or the path of a file), plain bytes, or the path of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.canonical import config_hash
from bench.config.pictures import Data
from bench.datasets.pictures.named_files import read_picture_file
from bench.datasets.pictures.pairs import pair_columns
from bench.datasets.pictures.rows import LeftOut, PictureFault, PictureRow, require_column, tag_text
from bench.paths import cache_folder


class TablePictures:
    """The rows of one table, by their number."""

    def __init__(self, table: Any, form: str, where: str, folder: Path | None, settings: Data, stamp: object) -> None:
        """`table` is a `datasets.Dataset`; `folder` is where files lie that its rows name."""
        import datasets

        self.form = form
        self._folder = Path(settings.pictures) if settings.pictures else folder
        names: Sequence[str] = table.column_names
        self._column, caption, pairs = pair_columns(where, settings, ("image", "text"), names)
        tags_column = require_column(where, "tag", settings.tag_column, names) if settings.tag_column else "tag"
        for column in pairs.pictures if pairs else (self._column,):
            if isinstance(table.features[column], datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
        self._table = table
        self._max_pixels = settings.max_pixels
        captions = table[caption][:]
        tags = table[tags_column][:] if tags_column in names else [None] * len(captions)
        labels = {name: table[name][:] for name in (pairs.labels or () if pairs else ())}
        self.rows: list[PictureRow] = []
        self.left_out: list[LeftOut] = []
        for number, (text, tag) in enumerate(zip(captions, tags, strict=True)):
            place, name, rejected = f"row {number}", str(number), None
            try:
                if pairs:
                    columns = pairs.ranked({label: values[number] for label, values in labels.items()})
                    name, rejected = (f"{number}.{column}" for column in columns)
                self.rows.append(PictureRow(name, place, text, tag_text(tag), rejected=rejected))
            except PictureFault as fault:
                self.left_out.append(LeftOut(place, name, fault.kind, fault.detail))
        self.stamp = config_hash({"table": stamp})

    def read(self, name: str) -> bytes:
        """The bytes of the picture of that row; raises PictureFault where it has none, or its file lies elsewhere.

        Of pairs the name is that of row and column, with a dot between them.
        """
        number, _, column = name.partition(".")
        cell = self._table[int(number)][column or self._column]
        if isinstance(cell, dict):
            cell = cell["path"] if cell.get("bytes") is None else cell["bytes"]
        if isinstance(cell, bytes):
            return cell
        if not isinstance(cell, str) or self._folder is None:
            raise PictureFault("missing", f"row {name} holds no picture but {type(cell).__name__}")
        return read_picture_file(self._folder, cell, self._max_pixels)


def open_parquet_folder(there: Sequence[Path], settings: Data) -> TablePictures:
    """The rows of those parquet files of a folder that belong to `settings.subset`; raises as what it calls does."""
    files, note = files_of_subset(there, settings.subset, "parquet file")
    return open_parquet(files, settings, note)


def files_of_subset(there: Sequence[Path], wanted: str, kind: str) -> tuple[list[Path], str]:
    """Those files of a folder that belong to the split `wanted`, as their names tell, and which those are, in words.

    Raises:
        DataError: there are none, or some name a split and others do not.
    """
    splits = {path: _split_in_name(path.stem) for path in there}
    named = sorted({split for split in splits.values() if split})
    subset = _split_in_name(wanted) or wanted
    if not named:
        named, splits = [Data.subset], dict.fromkeys(there, Data.subset)
    unnamed = [path.name for path, split in splits.items() if split is None]
    folder = there[0].parent
    if unnamed:
        raise DataError(
            f"{folder} has {kind}s of {', '.join(named)}, as their names tell, and {unnamed[0]} whose split is "
            "not known: name it for its split, or give the file that is meant by --data"
        )
    files = [path for path, split in splits.items() if split == subset]
    if not files:
        raise DataError(f"{folder} has no {kind} of {subset!r} but {', '.join(named)}: name one by --data.subset")
    others = len(there) - len(files)
    return files, f", split {subset}; {others} of other splits unused" if others else ""


def _split_in_name(name: str) -> str | None:
    """The split that a file is named for, as `datasets` reads names: `train-00000-of-00001`, `my_test`."""
    from datasets.data_files import SPLIT_KEYWORDS

    sharded = re.fullmatch(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}", name)
    words = set(re.split(r"[-._ 0-9]+", name.lower()))
    known = next((str(split) for split, keywords in SPLIT_KEYWORDS.items() if words & set(keywords)), None)
    return known or (sharded[1] if sharded else None)


def open_parquet(files: Sequence[Path], settings: Data, note: str = "") -> TablePictures:
    """The rows of parquet files, one after another; `note` says which they are.

    Raises:
        DataError: a file is damaged, or the files have other columns than one another.
    """
    datasets = _library()
    where = str(files[0] if len(files) == 1 else files[0].parent)
    _refuse_other_columns(files)
    with _one_message(where):
        table = datasets.Dataset.from_parquet([str(path) for path in files], cache_dir=str(cache_folder() / "tables"))
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    form = f"parquet ({files[0].name if len(files) == 1 else f'{len(files)} files'}{note})"
    return TablePictures(table, form, where, files[0].parent, settings, stamp)


def _refuse_other_columns(files: Sequence[Path]) -> None:
    """Make sure that all files have the columns of the first."""
    import pyarrow.parquet as pq

    columns: list[set[str]] = []
    for path in files:
        with _one_message(str(path)):
            columns.append(set(pq.read_schema(path).names))
        lacking, more = (sorted(a - b) for a, b in ((columns[0], columns[-1]), (columns[-1], columns[0])))
        if lacking or more:
            told = [f"lacks {', '.join(map(repr, lacking))}"] if lacking else []
            told += [f"has {', '.join(map(repr, more))}"] if more else []
            raise DataError(
                f"{path.parent}: expected the same columns in every parquet file, but {path.name} "
                f"{' and '.join(told)}, unlike {files[0].name}: rename them, or give the file that is meant by --data"
            )


def open_saved_dataset(folder: Path, settings: Data) -> TablePictures:
    """A dataset that `Dataset.save_to_disk` wrote, or one split of several.

    Raises:
        DataError: it is damaged, or has no such split.
    """
    datasets = _library()
    with _one_message(str(folder)):
        table = datasets.load_from_disk(str(folder))
    if isinstance(table, datasets.DatasetDict):
        table = _split(table, str(folder), settings)
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".arrow", ".json"))
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return TablePictures(table, "saved dataset", str(folder), folder, settings, stamp)


def open_hub_dataset(name: str, settings: Data) -> TablePictures:
    """A dataset of the Hugging Face hub, from its cache where it was downloaded before.

    Raises:
        DataError: there is no such dataset, or no way to it.
    """
    datasets = _library()
    with _one_message(f"--data {name} (no folder or file here, so a dataset of the hub)"):
        table = datasets.load_dataset(name, split=settings.subset)
    return TablePictures(table, f"dataset of the hub ({settings.subset})", name, None, settings, table._fingerprint)


def _library() -> Any:
    """`datasets`, told to leave errors to the messages of this module; local files are quick, and need no bars."""
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    return datasets


def _split(tables: Any, where: str, settings: Data) -> Any:
    if settings.subset not in tables:
        raise DataError(f"{where} has no split {settings.subset!r} but {', '.join(tables)}: name one by --data.subset")
    return tables[settings.subset]


@contextmanager
def _one_message(where: str) -> Iterator[None]:
    """Turns what `datasets` raises into one message."""
    try:
        yield
    except MemoryError:  # says nothing about the table
        raise
    except Exception as error:  # what pyarrow, fsspec, the hub and its own readers raise has no common base
        reason: BaseException = error
        while reason.__cause__ is not None:  # what it raises last says only that it failed
            reason = reason.__cause__
        raise DataError(
            f"{where}: expected a table of pictures and captions that `datasets` can read; reading it failed: "
            f"{type(reason).__name__}: {reason}. Restore it, or mend the path"
        ) from error
