"""One cell as it is stored: its record, its telemetry, its score files; verified as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.api import DataError
from bench.paths import inside
from bench.results.records.hashes import refuse_other_data
from bench.results.records.schema import (
    Cell,
    End,
    Event,
    ExperimentHeader,
    GridScores,
    LedgerEntry,
    Milestone,
    PromptSetScores,
    SampleGrid,
    Scorers,
    Step,
    Telemetry,
    parse_line,
)
from bench.results.records.score_files import damaged, read_scores
from bench.results.records.verification import cell_problems, check_pictures, record_problems, score_problems
from bench.results.records.writer import RECORD, read_lines, read_telemetry

__all__ = ["CellResult", "Tables", "look_at_cell", "named_file", "read_cell"]

Tables = Mapping[str, pa.Table]  # of a cell's score files by name


@dataclass(frozen=True)
class CellResult:
    """One cell as it was recorded. `torn`: the last line of the record was cut off by a crash."""

    folder: Path
    header: Cell
    steps: tuple[Step, ...]
    milestones: tuple[Milestone, ...]
    telemetry: tuple[Telemetry, ...]
    grid: GridScores | None
    pictures: SampleGrid | None
    end: End | None
    torn: bool
    scorers: Scorers | None = None
    sets: tuple[PromptSetScores, ...] = ()

    @property
    def is_hashed(self) -> bool:
        """Whether it was recorded with hashes of its lines and files."""
        return self.header.schema_ > 1

    @property
    def status(self) -> str:
        """`done`, `failed` or `unfinished`."""
        return self.end.status if self.end else "unfinished"

    @property
    def ledger(self) -> LedgerEntry | None:
        """What was spent, by the latest event that says so."""
        if self.end:
            return self.end.ledger
        spent = [step.ledger for step in self.steps] + [milestone.ledger for milestone in self.milestones]
        return max(spent, key=lambda entry: entry.updates) if spent else None


def read_cell(folder: Path, header: ExperimentHeader) -> CellResult | None:
    """One cell of an experiment, verified; None for a record without a whole line.

    Raises DataError for one that `read_experiment` refuses.
    """
    cell, _, problems = look_at_cell(folder.parents[2], "/".join(folder.parts[-3:]), header)
    if problems:
        raise DataError(f"{folder} is not what was recorded: {'; '.join(problems)}")
    return cell


def look_at_cell(folder: Path, place: str, header: ExperimentHeader) -> tuple[CellResult | None, Tables, list[str]]:
    """The cell in the folder `place` of an experiment, its scores, and what is wrong with it.

    No cell for a record without a whole line (killed while it wrote the first one).
    """
    problems: list[str] = []
    try:
        found = _read_cell(inside(folder, f"{place}/{RECORD}").parent)
        if found is None:
            return None, {}, []
        cell, events, values = found
        problems += [*_place_problems(folder, cell), *record_problems(cell.header, values)]
        problems += cell_problems(header, events)
        tables, wrong = _read_files(cell, header)
    except DataError as error:  # without where the results lie, which is no part of the report
        told = str(error).replace(f"{folder}/{place}/", "").replace(f"{folder}/", "").replace(str(folder), folder.name)
        return None, {}, [*problems, told]
    return cell, tables, list(dict.fromkeys(problems + wrong))


def _read_cell(folder: Path) -> tuple[CellResult, list[Event], list[dict[str, Any]]] | None:
    """One cell, with the events of its record and the values of its lines; None for a record without a whole line."""
    path = folder / RECORD
    if not path.exists() and any(folder.glob("*.parquet")):
        raise DataError(f"{path} is missing, but there are score files: restore it, or remove {folder}")
    lines, torn = read_lines(path)
    parsed = [parse_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    if not parsed:
        return None
    events, values = [event for event, _ in parsed], [held for _, held in parsed]
    if not isinstance(events[0], Cell):
        raise DataError(f"{path}:1: expected the cell event, found {events[0].kind!r}")
    ends = [number for number, event in enumerate(events) if isinstance(event, End)]
    if ends and ends[0] != len(events) - 1:
        raise DataError(f"{path}: events follow the end event on line {ends[0] + 1}")
    cell = CellResult(
        folder=folder,
        header=events[0],
        steps=tuple(event for event in events if isinstance(event, Step)),
        milestones=tuple(event for event in events if isinstance(event, Milestone)),
        telemetry=tuple(read_telemetry(folder)),
        grid=_last(events, GridScores),
        pictures=_last(events, SampleGrid),
        end=_last(events, End),
        torn=torn,
        scorers=_last(events, Scorers),
        sets=tuple(event for event in events if isinstance(event, PromptSetScores)),
    )
    return cell, events, values


def _read_files(cell: CellResult, header: ExperimentHeader) -> tuple[Tables, list[str]]:
    """The score files of a cell, and what is wrong with them and its pictures."""
    tables: dict[str, pa.Table] = {}
    problems: list[str] = []
    named: list[Milestone | PromptSetScores | GridScores] = [*cell.milestones, *cell.sets]
    named += [cell.grid] if cell.grid else []
    for event in {event.file: event for event in named}.values():
        tables[event.file] = read_scores(named_file(cell, event.file), event.sha256)
        problems += score_problems(header, event, tables[event.file])
    if cell.pictures:
        path = named_file(cell, cell.pictures.file)
        refuse_other_data(path, path.read_bytes(), cell.pictures.sha256)
        try:
            check_pictures(cell.pictures, path)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on bytes that are no whole picture
            raise damaged(path, "a PNG", error) from error
    return tables, problems


def _last(events: list[Event], kind: type[Any]) -> Any:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def _place_problems(folder: Path, cell: CellResult) -> list[str]:
    head = cell.header
    place = folder / head.task / head.method / f"seed{head.seed}"
    there = place.relative_to(folder).as_posix()
    return [] if place == cell.folder else [f"it holds the record of {there}: move it there"]


def named_file(cell: CellResult, name: str) -> Path:
    """A file that the record of a cell names; raises DataError where there is none, or where it lies elsewhere."""
    path = inside(cell.folder, name)
    if not path.is_file():
        raise DataError(f"{path} is missing, but the record names it: restore it or run the cell again")
    return path
