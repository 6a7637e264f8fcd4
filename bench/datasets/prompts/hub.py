"""Where a prompt set lies: a file, or a file of a data set that was fetched from the Hugging Face hub.

Nothing is downloaded here and no code of a data set is run: `bench fetch --prompts ID` brings its files into the hub's
cache.
"""

from __future__ import annotations

from pathlib import Path

from bench.api import DataError
from bench.datasets.prompts.readers import SUFFIXES
from bench.hub import is_hub_id, locate_data_set

# What `bench fetch --prompts` brings, wherever it lies within the data set.
WANTED = tuple(f"*{suffix}" for suffix in SUFFIXES)


def locate_prompts(path: str, file: str | None = None) -> Path:
    """The file of a prompt set; of a data set of the hub `file`, or the only one that can hold prompts.

    Raises:
        DataError: there is none, or the data set was not fetched, or has several; the message says what to do.
    """
    if Path(path).is_file():
        return Path(path)
    if Path(path).exists() or not is_hub_id(path) or Path(path).suffix in SUFFIXES:
        raise DataError(
            f"{path}: expected a file of prompts ({', '.join(SUFFIXES)}), or the id of a data set of the hub; there is "
            "no such file. Get the published ones where their authors put them, or write some by `bench prompts`"
        )
    folder = locate_data_set(path, WANTED)
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES}
    names = [file] if file in found else list(found) if file is None else []
    if len(names) != 1:
        asked = f"no file {file!r}" if file is not None else f"{len(found)} files that may hold prompts"
        raise DataError(
            f"{path}: this data set has {asked}: name one of {', '.join(found) or '(none)'} by the set's `file`"
        )
    return found[names[0]]
