"""Finds out in which form the user's pictures lie, and opens them; or the part of them that `bench curate` selected."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.api import ConfigError, DataError
from bench.config.pictures import Data
from bench.datasets.pictures.rows import PictureSource
from bench.datasets.pictures.selection import Selection, read_selection
from bench.reading import read_file

_FORMS = (
    "expected a folder with metadata.jsonl, .csv, .json or .tsv (file_name, text), with captions beside the pictures "
    "(a.png, a.txt), with .tar shards, with .parquet files or with a saved dataset; one such file; or the id of a "
    "dataset on the hub"
)


@dataclass(frozen=True)
class OpenedSource:
    """A source, the settings it was opened with, and what was selected from it, where something was."""

    source: PictureSource
    settings: Data
    selection: Selection | None = None


def open_source(settings: Data) -> OpenedSource:
    """The pictures that the settings name.

    Raises:
        DataError: there are none, in none of the forms, or without the columns.
        ConfigError: the settings name two selections.
    """
    path = Path(settings.path)
    if settings.selection is not None:
        selection = read_selection(Path(settings.selection))
        if _is_selection(path):
            raise ConfigError(
                f"--data {path} is a selection, and --data.selection names another: give the pictures by --data"
            )
        return _selected(settings, selection, settings.path)
    if _is_selection(path):
        selection = read_selection(path)
        if selection.where is None:
            raise DataError(
                f"--data {path} is a selection, which does not say where its pictures lie: give them by --data, and "
                f"this file by --data.selection {path}"
            )
        return _selected(settings, selection, selection.source(path))
    return OpenedSource(_open(settings), settings)


def _is_selection(path: Path) -> bool:
    """Whether a path is a .json file that is no list of pictures."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        return not read_file(path).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except OSError:
        return False  # told by whoever opens it


def _selected(settings: Data, selection: Selection, where: str) -> OpenedSource:
    columns: dict[str, Any] = selection.columns.model_dump()
    below = dataclasses.replace(settings, **columns, path=where, selection=None)
    return OpenedSource(_open(below), below, selection)


def _open(settings: Data) -> PictureSource:
    from bench.datasets.pictures.listed_files import LISTINGS, ListedPictures

    path = Path(settings.path)
    if path.is_dir():
        return _open_folder(path, settings)
    if path.is_file() and path.suffix in LISTINGS:
        return ListedPictures(path, settings)
    if path.is_file() and (".tar" in path.suffixes[-2:] or path.suffix == ".tgz"):
        from bench.datasets.pictures.shards import Shards

        return Shards([path], settings)
    from bench.datasets.pictures import tables

    if path.is_file() and path.suffix == ".parquet":
        return tables.open_parquet([path], settings)
    if not path.exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", settings.path) and not path.suffix:
        return tables.open_hub_dataset(settings.path, settings)
    raise DataError(f"--data {settings.path}: {_FORMS}; {'this is none' if path.exists() else 'there is nothing'}")


def _open_folder(folder: Path, settings: Data) -> PictureSource:
    from bench.datasets.pictures import tables
    from bench.datasets.pictures.caption_files import CaptionedFiles
    from bench.datasets.pictures.listed_files import LISTINGS, ListedPictures
    from bench.datasets.pictures.shards import Shards

    listings = [path for suffix in LISTINGS if (path := folder / f"metadata{suffix}").exists()]
    if len(listings) > 1:
        names = " and ".join(path.name for path in listings)
        raise DataError(f"{folder} holds {names}: give the one that is meant by --data")
    if listings:
        return ListedPictures(listings[0], settings)
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return tables.open_saved_dataset(folder, settings)
    files, shards = (sorted(p for p in folder.glob(f"*{end}") if not p.is_dir()) for end in (".parquet", ".tar"))
    if files and shards:
        raise DataError(f"{folder} holds {files[0].name} and {shards[0].name}: give the one that is meant by --data")
    if files:
        return tables.open_parquet_folder(files, settings)
    if shards:
        some, note = tables.files_of_subset(shards, settings.subset, "tar file")
        return Shards(some, settings, note)
    below = sorted(path.parent for path in folder.glob("*/metadata.*"))
    hint = f"; {below[0]} holds one" if below else ""
    captioned = None if below else CaptionedFiles(folder, settings)
    if captioned is not None and captioned.is_captioned:
        return captioned
    if captioned is not None and captioned.pictures:
        hint = f"; it has {captioned.pictures:,} pictures, and no .txt or .caption of the same name beside any of them"
    raise DataError(f"--data {folder}: {_FORMS}; this folder holds none of them{hint}")
