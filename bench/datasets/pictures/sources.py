"""Finds out in which form the user's pictures lie, and opens them; or the part of them that `bench curate` selected."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.config.pictures import Data
from bench.datasets.pictures.rows import PictureSource
from bench.datasets.pictures.selection import Selection, read_selection

_FORMS = (
    "expected a folder with metadata.jsonl or metadata.csv (file_name, text), with .parquet files or with a saved "
    "dataset, a .jsonl, .csv or .parquet file, or the id of a dataset on the hub"
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
    """
    path = Path(settings.path)
    if path.suffix == ".json" and path.is_file():
        selection = read_selection(path)
        columns: dict[str, Any] = selection.columns.model_dump()
        below = dataclasses.replace(settings, **columns, path=selection.source(path))
        return OpenedSource(_open(below), below, selection)
    return OpenedSource(_open(settings), settings)


def _open(settings: Data) -> PictureSource:
    from bench.datasets.pictures.listed_files import ListedPictures

    path = Path(settings.path)
    if path.is_dir():
        return _open_folder(path, settings)
    if path.is_file() and path.suffix in (".jsonl", ".csv"):
        return ListedPictures(path, settings)
    from bench.datasets.pictures import tables

    if path.is_file() and path.suffix == ".parquet":
        return tables.open_parquet([path], settings)
    if not path.exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", settings.path) and not path.suffix:
        return tables.open_hub_dataset(settings.path, settings)
    raise DataError(f"--data {settings.path}: {_FORMS}; {'this is none' if path.exists() else 'there is nothing'}")


def _open_folder(folder: Path, settings: Data) -> PictureSource:
    from bench.datasets.pictures import tables
    from bench.datasets.pictures.listed_files import ListedPictures

    listings = [path for path in (folder / "metadata.jsonl", folder / "metadata.csv") if path.exists()]
    if len(listings) > 1:
        raise DataError(f"{folder} holds metadata.jsonl and metadata.csv: give the one that is meant by --data")
    if listings:
        return ListedPictures(listings[0], settings)
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return tables.open_saved_dataset(folder, settings)
    files = sorted(path for path in folder.glob("*.parquet") if path.is_file())
    if files:
        return tables.open_parquet_folder(files, settings)
    below = sorted(path.parent for path in folder.glob("*/metadata.*"))
    hint = f"; {below[0]} holds one" if below else ""
    raise DataError(f"--data {folder}: {_FORMS}; this folder holds none of them{hint}")
