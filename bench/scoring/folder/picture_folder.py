"""The pictures of a folder with their prompts, and what is wrong with those that cannot be judged."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.api import DataError, Prompt
from bench.config.pictures import Data
from bench.datasets.pictures.decoding import open_picture
from bench.datasets.pictures.named_files import picture_bytes
from bench.datasets.prompts.readers import read_prompts
from bench.paths import inside
from bench.reading import read_file

METADATA = ("metadata.jsonl", "metadata.csv")  # Hugging Face's ImageFolder: file_name, text
MAX_PIXELS = Data.max_pixels


@dataclass(frozen=True)
class PictureEntry:
    """One picture: its name in the folder, its prompt where there are prompts, and why a score is missing, if so."""

    name: str
    prompt: Prompt | None = None
    problem: str = ""


def list_pictures(folder: Path, prompts: Path | None = None) -> list[PictureEntry]:
    """Every file of a folder as a picture; hidden files, the metadata and the file of prompts are none.

    With a file of prompts, its lines belong to the pictures sorted by name, numbers in names by their value. Without
    one, the rows of the folder's metadata name their pictures; without that, there are no prompts.

    Raises:
        DataError: no such folder, no files in it, prompts that cannot be read or are not as many as the pictures.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with pictures, but there is none of that name")
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    beside = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    lines = None if prompts is None else read_prompts(prompts)
    files = [path for path in files if path.name not in METADATA and not (prompts and path.samefile(prompts))]
    names = sorted((path.name for path in files), key=_by_numbers)
    if prompts is None and beside is not None:
        return _entries_of_metadata(folder, names, read_prompts(beside), beside.name)
    if not names:
        raise DataError(f"{folder} holds no files: expected pictures in it, and not in folders of it")
    if lines is None:
        return [_picture_entry(name) for name in names]
    if len(lines) != len(names):
        raise DataError(
            f"{prompts}: expected a prompt for each of the {len(names)} files in {folder}, sorted by name, got "
            f"{len(lines)} prompts: mend the file, or name the pictures in a metadata.jsonl (file_name, text)"
        )
    return [_picture_entry(name, prompt) for name, prompt in zip(names, lines, strict=True)]


def read_picture(path: Path) -> np.ndarray:
    """Pixels uint8 (H, W, 3) of one picture in sRGB, upright as its camera says; what is transparent is laid on white.

    Raises:
        DataError: it cannot be used, for one of the reasons in `bench.datasets.pictures.rows.FAULT_KINDS`.
    """
    try:
        data = read_file(path, picture_bytes(MAX_PIXELS))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    return np.asarray(open_picture(data, MAX_PIXELS).picture)


def _entries_of_metadata(folder: Path, names: list[str], rows: list[Prompt], source: str) -> list[PictureEntry]:
    """The rows of the metadata in their order, then the files that it does not name."""
    entries = []
    for row in rows:
        metadata = dict(row.metadata)
        name = metadata.pop("file_name", None)
        if not isinstance(name, str):
            raise DataError(f"{folder / source}: expected a file_name in every row, got none for {row.text!r}")
        there = inside(folder, name).is_file()
        prompt = Prompt(row.index, row.text, metadata)
        entries.append(PictureEntry(name, prompt, "" if there else f"named in {source}, but there is no such file"))
    listed = {entry.name for entry in entries}
    rest = [_picture_entry(name) for name in names if name not in listed]
    return entries + [replace(entry, problem=entry.problem or f"not named in {source}") for entry in rest]


def _picture_entry(name: str, prompt: Prompt | None = None) -> PictureEntry:
    """A file of the folder; one whose name is no text could not be written down."""
    legible = name.encode("utf-8", "backslashreplace").decode()
    return PictureEntry(legible, prompt, "" if legible == name else "its name is not UTF-8: rename it")


def _by_numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
