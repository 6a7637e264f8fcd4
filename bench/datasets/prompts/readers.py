"""Reads prompt sets from files and fetched data sets, in the formats of the published ones.

    .txt          a prompt in each line: Flow-GRPO's OCR and PickScore prompts, DrawBench
    .csv, .tsv    a column `Prompts`, `prompt` or `text`, and others: DrawBench (`Category`), PartiPrompts, whose cells
                  may begin with a quote that belongs to the prompt
    .jsonl        objects with `prompt` or `text`, and more: GenEval's evaluation_metadata.jsonl (tag, include, exclude)
    .parquet      the same in columns, as data sets of the hub have it

What else a file says of a prompt becomes its metadata. A category is its `tag`; a quoted text is its `text`. Nothing is
downloaded here and no code of a data set is run: `bench fetch --prompts ID` brings its files into the hub's cache.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bench.api import DataError, Prompt
from bench.datasets.prompts.ocr import quoted_text
from bench.hub import is_hub_id, locate_data_set
from bench.reading import parse_json, read_text

_PROMPT_COLUMNS = ("prompt", "prompts", "text")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".txt", *_DELIMITERS, ".jsonl", ".parquet")
# What `bench fetch --prompts` brings, wherever it lies within the data set.
PROMPT_FILES = tuple(f"*{suffix}" for suffix in SUFFIXES)
_SHOWN = 60  # characters of a broken line

# Tab-separated cells that were quoted after all: all of the header; and one that holds quotes, each of them doubled.
_QUOTED_HEAD = re.compile(r'"[^"\t\n]*"(\t"[^"\t\n]*")*\r?(\n|$)')
_EXCEL = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')

Row = tuple[str, dict[str, Any]]


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
    folder = locate_data_set(path, PROMPT_FILES)
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES}
    names = [file] if file in found else list(found) if file is None else []
    if len(names) != 1:
        requested = f"no file {file!r}" if file is not None else f"{len(found)} files that may hold prompts"
        raise DataError(
            f"{path}: this data set has {requested}: name one of {', '.join(found) or '(none)'} by the set's `file`"
        )
    return found[names[0]]


def read_prompts(path: Path, column: str | None = None) -> list[Prompt]:
    """The prompts of a file, in its order, with their metadata. `column` is where prompts stand, if not as above.

    Raises:
        DataError: the file is missing, of another format, empty, or a line of it is broken; the message names the line.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected a file of prompts, but it is none")
    suffix = path.suffix.lower()
    names = _PROMPT_COLUMNS if column is None else (column,)
    if suffix == ".txt":
        rows = _lines(path)
    elif suffix in _DELIMITERS:
        rows = _table(path, _DELIMITERS[suffix], tuple(name.strip().lower() for name in names))
    elif suffix == ".jsonl":
        rows = _objects(path, names)
    elif suffix == ".parquet":
        rows = _stored(path, names)
    else:
        raise DataError(f"{path}: expected prompts in a .txt, .csv, .tsv, .jsonl or .parquet file")
    prompts = [Prompt(number, text, _completed(text, about)) for number, (text, about) in enumerate(rows)]
    if not prompts:
        raise DataError(f"{path} holds no prompts: expected one in each line")
    return prompts


def _lacking(about: Mapping[str, Any]) -> str | None:
    """What was expected of a claim in GenEval's format and is not there; None where nothing lacks."""
    for clause in ("include", "exclude"):
        parts = about.get(clause, [])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            return f"a list of objects under {clause!r}"
        for number, part in enumerate(parts):
            count, position = part.get("count"), part.get("position")
            if not isinstance(part.get("class"), str) or not isinstance(count, int) or count < 1:
                return f"a class and a count of at least 1 in {clause!r}"
            if not isinstance(part.get("color", ""), str):
                return f"a word as color in {clause!r}"
            if position is not None and not _is_position(position, number):
                return f"a position [words, number of an earlier entry] in {clause!r}"
    return None


def _is_position(position: Any, number: int) -> bool:
    return (
        isinstance(position, list)
        and len(position) == 2
        and isinstance(position[0], str)
        and isinstance(position[1], int)
        and 0 <= position[1] < number
    )


def _lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_read_lines(path), 1):
        if not line.strip():
            raise _broken(path, number, "a prompt", line)
        yield line.strip(), {}


def _table(path: Path, delimiter: str, names: Sequence[str]) -> Iterator[Row]:
    for number, record in _records(path, delimiter):
        about = {name.strip().lower(): value for name, value in record.items()}
        text = _taken(path, number, about, names)
        yield text, {name: value for name, value in _tagged(about).items() if value}


def _tagged(about: dict[str, Any]) -> dict[str, Any]:
    """DrawBench's `category` as the tag that it is."""
    return {"tag" if name == "category" else name: value for name, value in about.items()}


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _read(path)
    plain = delimiter == "\t" and not _QUOTED_HEAD.match(text)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                expected = f"{len(reader.fieldnames or ())} columns as in the header"
                raise _broken(path, reader.line_num, expected, str(list(record.values())))
            yield reader.line_num, {name: _unquoted(cell) for name, cell in record.items()} if plain else record
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: expected a table: {error}") from error


def _unquoted(cell: str) -> str:
    """A cell of a table that has no quoting by its definition, without that which Excel gives to a cell with quotes."""
    return cell[1:-1].replace('""', '"') if _EXCEL.fullmatch(cell) else cell


def _objects(path: Path, names: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(_read_lines(path), 1):
        try:
            about = parse_json(line)
            json.dumps(about, ensure_ascii=False).encode()  # half of a letter could not be stored
        except ValueError as error:
            raise _broken(path, number, f"a JSON object ({error})", line) from error
        if not isinstance(about, dict):
            raise _broken(path, number, "a JSON object", line)
        yield _claimed(path, number, about, names)


def _stored(path: Path, names: Sequence[str]) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise DataError(f"cannot read the prompts in {path}: {error}: restore it") from error
    for number, row in enumerate(rows, 1):
        yield _claimed(path, number, _tagged(_without_nothing(row)), names)


def _without_nothing(value: Any) -> Any:
    """A row without what it has no value for: in columns, every part of a claim has every field."""
    if isinstance(value, dict):
        return {name: _without_nothing(item) for name, item in value.items() if item is not None}
    return [_without_nothing(item) for item in value] if isinstance(value, list) else value


def _claimed(path: Path, number: int, about: dict[str, Any], names: Sequence[str]) -> Row:
    """A prompt and what is said of it, which is in GenEval's format where it claims something."""
    text = _taken(path, number, about, names)
    lacking = _lacking(about)
    if lacking:
        raise _broken(path, number, lacking, json.dumps({**about, "prompt": text}, default=str))
    return text, about


def _taken(path: Path, number: int, about: dict[str, Any], names: Sequence[str]) -> str:
    """The prompt of a row, taken out of it."""
    name = next((name for name in names if name in about), None)
    text = about.pop(name) if name else None
    if not isinstance(text, str) or not text.strip():
        raise _broken(path, number, f"a prompt under one of {', '.join(names)}", str(about))
    return text.strip()


def _completed(text: str, about: dict[str, Any]) -> dict[str, Any]:
    quoted = quoted_text(text)
    return about if quoted is None or "text" in about else {**about, "text": quoted}


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise DataError(f"cannot read the prompts in {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"cannot read the prompts in {path}: {error}") from error


def _read_lines(path: Path) -> list[str]:
    """Lines by line feeds alone: other separators may stand inside a text."""
    text = _read(path).removesuffix("\n")
    return text.split("\n") if text else []


def _broken(path: Path, number: int, expected: str, line: str) -> DataError:
    shown = line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
    return DataError(f"{path}, line {number}: expected {expected}, got {shown!r}: mend or remove that line")
