"""Score files: parquet to one frame for many cells. Thousands of small files are read, so the cost of each counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from bench.api import DataError
from bench.results.records.schema import SCORE_COLUMNS

__all__ = ["KEYS", "damaged", "read_scores", "score_frame"]

KEYS = ["task", "method", "seed"]
_BLOCK = 32  # tables that are joined at once: thousands of small ones take several times the memory of their rows
_TEXTS = [name for name, kind in SCORE_COLUMNS.items() if kind == "str"]
# What pyarrow raises on bytes that are no parquet, on pages that fail their checksum, on names that are none.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException)


def damaged(path: Path, kind: str, error: Exception) -> DataError:
    """What to tell of a file of a cell that cannot be read as what it should be."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{path} is damaged: expected {kind}, but reading it failed ({reason}). Restore it, or remove {path.parent} "
        "and run the cell again"
    )


def read_scores(path: Path) -> pa.Table:
    """The rows of a score file, its texts as dictionaries.

    Raises DataError where it cannot be read, or lacks one of `SCORE_COLUMNS`.
    """
    try:
        data = pa.BufferReader(path.read_bytes())
        file = ParquetFile(data, page_checksum_verification=True, read_dictionary=_TEXTS, pre_buffer=False)
        # one thread: handing these few rows out to several takes longer than reading them
        table = file.read(use_threads=False).replace_schema_metadata()
        table.validate(full=True)
    except _UNREADABLE as error:
        raise damaged(path, "a score file", error) from error
    missing = SCORE_COLUMNS.keys() - set(table.column_names)
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}: it is not a score file of schema 1")
    return table


def score_frame(cells: Sequence[tuple[str, str, int]], tables: Iterable[pa.Table]) -> pd.DataFrame:
    """All rows under one another, after `KEYS`: the (task, method, seed) of each table. Texts are categories, sorted.

    A column that a file lacks is NaN in its rows.
    """
    if not cells:
        return pd.DataFrame(columns=[*KEYS, *SCORE_COLUMNS])
    rows, joined, waiting = [], [], iter(tables)
    while block := list(islice(waiting, _BLOCK)):
        rows += [table.num_rows for table in block]
        joined.append(_joined(block).combine_chunks())
    table = _joined(joined)
    del joined, block  # so that columns of the table can go as soon as they are converted
    whole = table.to_pandas(split_blocks=True, self_destruct=True)
    for name in _TEXTS:
        whole[name] = whole[name].cat.reorder_categories(sorted(whole[name].cat.categories))
    for position, (name, values) in enumerate(zip(KEYS, zip(*cells, strict=True), strict=True)):
        codes, known = pd.factorize(np.array(values), sort=True)
        repeated = np.repeat(codes, rows)
        whole.insert(position, name, known[repeated] if name == "seed" else pd.Categorical.from_codes(repeated, known))
    return whole


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
