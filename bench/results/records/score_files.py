"""Score files: parquet to one frame for many cells. Thousands of small files are read, so the cost of each counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from bench.api import DataError
from bench.results.records.hashes import refuse_other_data
from bench.results.records.schema import CLUSTER, SCORE_COLUMNS

__all__ = ["KEYS", "ScoreRows", "coded_columns", "columns_of", "damaged", "read_scores"]

KEYS = ["task", "method", "seed"]
_BLOCK = 128  # tables that are joined at once: thousands of small ones take several times the memory of their rows
_TEXTS = [name for name, kind in SCORE_COLUMNS.items() if kind == "str"]
_NUMBERS = {"int32": pa.int32(), "float32": pa.float32()}
# What pyarrow raises on bytes that are no parquet, on pages that fail their checksum, on names that are none.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException)


def damaged(path: Path, kind: str, error: Exception) -> DataError:
    """What to tell of a file of a cell that cannot be read as what it should be."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{path} is damaged: expected {kind}, but reading it failed ({reason}). Restore it, or remove {path.parent} "
        "and run the cell again"
    )


def read_scores(path: Path, digest: str | None) -> pa.Table:
    """The rows of a score file, its texts as dictionaries; where none says otherwise, each prompt is its own cluster.

    Raises DataError where it cannot be read, is not the one of the SHA-256 `digest`, lacks one of `SCORE_COLUMNS`, or
    has values of another kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise damaged(path, "a score file", error) from error
    refuse_other_data(path, data, digest)
    try:
        # The digest of a file, where there is one, says more than the checksums of its pages
        file = ParquetFile(
            pa.BufferReader(data), page_checksum_verification=digest is None, read_dictionary=_TEXTS, pre_buffer=False
        )
        # one thread: handing these few rows out to several takes longer than reading them
        table = file.read(use_threads=False).replace_schema_metadata()
        table.validate(full=True)
    except _UNREADABLE as error:
        raise damaged(path, "a score file", error) from error
    if CLUSTER not in table.column_names and "prompt_index" in table.column_names:
        table = table.append_column(CLUSTER, table.column("prompt_index"))
    missing = SCORE_COLUMNS.keys() - set(table.column_names)
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}: it is not a score file of schema 1")
    for name, type_ in zip(table.column_names, table.schema.types, strict=True):
        kind = SCORE_COLUMNS.get(name, "float32")
        if not (pa.types.is_dictionary(type_) if kind == "str" else type_ == _NUMBERS[kind]):
            raise DataError(f"{path}: {name} is {type_}, expected {kind}: it is not a score file of schema 1")
    return table


def columns_of(table: pa.Table) -> dict[str, np.ndarray]:
    """The columns of a table by name, texts as objects."""
    found = zip(table.column_names, table.columns, strict=True)
    return {
        n: (c.combine_chunks().dictionary_decode() if n in _TEXTS else c).to_numpy(zero_copy_only=False)
        for n, c in found
    }


def coded_columns(table: pa.Table) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The columns of a table by name, all of numbers; a text is its place in the list beside, NaN where there is none.

    Several times as quick as `columns_of`.
    """
    columns, texts = dict(zip(table.column_names, table.columns, strict=True)), {}
    for name in _TEXTS:
        whole = columns[name].combine_chunks()
        columns[name], texts[name] = whole.indices, whole.dictionary.to_pylist()
    return {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}, texts


class ScoreRows:
    """The rows of many score files, joined as they come."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, str, int]] = []
        self._counts: list[int] = []
        self._joined: list[pa.Table] = []
        self._waiting: list[pa.Table] = []

    def add(self, task: str, method: str, seed: int, table: pa.Table) -> None:
        """Put the rows of one more file of a cell below the others."""
        self._keys.append((task, method, seed))
        self._counts.append(table.num_rows)
        self._waiting.append(table)
        if len(self._waiting) == _BLOCK:
            self._join()

    def _join(self) -> None:
        self._joined.append(_concatenated(self._waiting).combine_chunks())
        self._waiting.clear()

    def frame(self) -> pd.DataFrame:
        """All rows after `KEYS`; this is empty then. Texts are sorted categories; a column that a file lacks is NaN."""
        if not self._keys:
            return pd.DataFrame(columns=[*KEYS, *SCORE_COLUMNS])
        if self._waiting:
            self._join()
        table = _concatenated(self._joined)
        self._joined.clear()  # so that each column of the table can go as soon as it is converted
        whole = table.to_pandas(split_blocks=True, self_destruct=True)
        for name in _TEXTS:
            whole[name] = whole[name].cat.reorder_categories(sorted(whole[name].cat.categories))
        for position, (name, values) in enumerate(zip(KEYS, zip(*self._keys, strict=True), strict=True)):
            codes, known = pd.factorize(np.array(values), sort=True)
            rows = np.repeat(codes, self._counts)
            whole.insert(position, name, known[rows] if name == "seed" else pd.Categorical.from_codes(rows, known))
        pa.default_memory_pool().release_unused()  # what the tables took
        return whole


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
