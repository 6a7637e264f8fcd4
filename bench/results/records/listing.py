"""Which experiments and cells lie in a results folder; none is reached through a link."""

from __future__ import annotations

from pathlib import Path

from bench.paths import inside
from bench.results.records.writer import EXPERIMENT, RECORD


def list_experiments(results: Path) -> list[Path]:
    """Folders under `results` that hold an experiment, sorted by name.

    Raises:
        DataError: a link stands in the place of one.
    """
    return sorted(inside(results, path.parent.name) for path in results.glob(f"*/{EXPERIMENT}"))


def list_results(results: Path) -> list[Path]:
    """As `list_experiments`, and the folders that hold cells whose header is gone."""
    cells = results.glob(f"*/*/*/seed*/{RECORD}")
    return sorted({*list_experiments(results), *(inside(results, path.parents[3].name) for path in cells)})


def list_cells(folder: Path, file: str = RECORD) -> list[Path]:
    """Folders of the cells in results/<experiment> that hold this file, sorted.

    Raises:
        DataError: a link stands on the way to one.
    """
    found = (path.relative_to(folder).as_posix() for path in folder.glob(f"*/*/seed*/{file}"))
    return sorted(inside(folder, name).parent for name in found)
