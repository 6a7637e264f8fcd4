"""Reading `results/<experiment>` into pandas frames; nothing here computes, and nothing is skipped in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.api import DataError
from bench.paths import inside
from bench.results.records.listing import list_cells
from bench.results.records.schema import (
    SCORE_COLUMNS,
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
    parse_event,
)
from bench.results.records.score_files import KEYS, ScoreRows, damaged, read_scores
from bench.results.records.writer import RECORD, read_experiment_header, read_lines, read_telemetry

__all__ = ["KEYS", "CellResult", "ExperimentResults", "damaged", "named_file", "read_experiment"]

LEDGER = tuple(LedgerEntry.model_fields)


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


@dataclass(frozen=True)
class ExperimentResults:
    """All cells of one experiment, and frames over them; every frame begins with task, method, seed.

    cells: status, reason, torn, seconds, ledger entries, provenance. steps: stage, update, ledger entries,
    `metric.<name>`. milestones: update, fraction, guidance, steps, ledger entries, diversity, `drift.<name>`, seconds
    (NaN where telemetry has none). samples, grid, sets: `SCORE_COLUMNS` and one column per scorer, one row per sample,
    in prompt sets per prompt. scorers: those of samples and grid.
    """

    folder: Path
    header: ExperimentHeader
    results: tuple[CellResult, ...]
    cells: pd.DataFrame
    steps: pd.DataFrame
    milestones: pd.DataFrame
    samples: pd.DataFrame
    grid: pd.DataFrame
    scorers: tuple[str, ...] = field(default=())
    sets: pd.DataFrame = field(default_factory=pd.DataFrame)


def read_experiment(folder: Path) -> ExperimentResults:
    """Read everything in results/<experiment>.

    Raises DataError where a record is damaged (a torn last line is reported, not raised), lies in another folder than
    its header says, belongs to another configuration, names a score file that is missing or lies elsewhere, or where a
    link stands in the place of a file or a folder.
    """
    header = read_experiment_header(folder)
    cells = [cell for path in list_cells(folder) if (cell := _read_cell(path)) is not None]
    for cell in cells:
        _check_place(folder, header, cell)
    files = {(cell.folder, item.file): (cell, item.file) for cell in cells for item in cell.milestones}
    samples = _frame(list(files.values()))
    grid = _frame([(cell, cell.grid.file) for cell in cells if cell.grid])
    scorers = sorted({name for frame in (samples, grid) for name in frame if name not in (*KEYS, *SCORE_COLUMNS)})
    return ExperimentResults(
        folder=folder,
        header=header,
        results=tuple(cells),
        cells=pd.DataFrame([_cell_row(cell) for cell in cells]),
        steps=pd.DataFrame([row for cell in cells for row in _step_rows(cell)]),
        milestones=pd.DataFrame([row for cell in cells for row in _milestone_rows(cell)]),
        samples=samples,
        grid=grid,
        scorers=tuple(scorers),
        sets=_frame([(cell, item.file) for cell in cells for item in cell.sets]),
    )


def _read_cell(folder: Path) -> CellResult | None:
    """One cell, or None for a record without a whole line (killed while it wrote the first one)."""
    path = folder / RECORD
    lines, torn = read_lines(path)
    events = [parse_event(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    if not events:
        return None
    if not isinstance(events[0], Cell):
        raise DataError(f"{path}:1: expected the cell event, found {events[0].kind!r}")
    ends = [number for number, event in enumerate(events) if isinstance(event, End)]
    if ends and ends[0] != len(events) - 1:
        raise DataError(f"{path}: events follow the end event on line {ends[0] + 1}")
    return CellResult(
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


def _last(events: list[Event], kind: type[Any]) -> Any:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def _check_place(folder: Path, header: ExperimentHeader, cell: CellResult) -> None:
    head = cell.header
    place = folder / head.task / head.method / f"seed{head.seed}"
    if place != cell.folder:
        raise DataError(f"{cell.folder} holds the record of {place}: move it there")
    if head.experiment != header.name:
        raise DataError(f"{cell.folder} belongs to experiment {head.experiment!r}, not to {header.name!r}")


def _keys(cell: CellResult) -> dict[str, Any]:
    return {"task": cell.header.task, "method": cell.header.method, "seed": cell.header.seed}


def _ledger(entry: LedgerEntry | None) -> dict[str, Any]:
    return {name: getattr(entry, name) if entry else float("nan") for name in LEDGER}


def _seconds(cell: CellResult) -> dict[int, float]:
    """Training seconds by update; where an interruption repeats an update, the last line counts."""
    return {item.update: item.seconds for item in cell.telemetry}


def _cell_row(cell: CellResult) -> dict[str, Any]:
    made = cell.header.provenance
    ended = [item for item in cell.telemetry if item.kind == "end"]
    seconds = ended[-1] if ended else (cell.telemetry[-1] if cell.telemetry else None)
    return {
        **_keys(cell),
        "status": cell.status,
        "reason": cell.end.reason if cell.end else None,
        "torn": cell.torn,
        "config_hash": cell.header.config_hash,
        "commit": made.commit,
        "dirty": made.dirty,
        "sources_hash": made.sources_hash,
        "sources_cover": made.covers,
        "device": made.device,
        "seconds": seconds.seconds if seconds else float("nan"),
        "cpu_seconds": seconds.cpu_seconds if seconds else float("nan"),
        "max_rss_mib": max((item.max_rss_mib for item in cell.telemetry), default=float("nan")),
        **_ledger(cell.ledger),
    }


def _step_rows(cell: CellResult) -> Iterator[dict[str, Any]]:
    for event in cell.steps:
        metrics = {f"metric.{name}": value for name, value in event.metrics.items()}
        yield {**_keys(cell), "stage": event.stage, "update": event.update, **_ledger(event.ledger), **metrics}


def _milestone_rows(cell: CellResult) -> Iterator[dict[str, Any]]:
    """One row per update: a budget may end on the update of an earlier milestone; the later one holds all prompts."""
    seconds = _seconds(cell)
    for event in {event.update: event for event in cell.milestones}.values():
        yield {
            **_keys(cell),
            "update": event.update,
            "fraction": event.fraction,
            "guidance": event.guidance,
            "steps": event.steps,
            **_ledger(event.ledger),
            "diversity": float("nan") if event.diversity is None else event.diversity,
            **{f"drift.{name}": value for name, value in event.drift.items()},
            "seconds": seconds.get(event.update, 0.0 if event.update == 0 else float("nan")),
        }


def named_file(cell: CellResult, name: str) -> Path:
    """A file that the record of a cell names; raises DataError where there is none, or where it lies elsewhere."""
    path = inside(cell.folder, name)
    if not path.is_file():
        raise DataError(f"{path} is missing, but the record names it: restore it or run the cell again")
    return path


def _frame(files: Sequence[tuple[CellResult, str]]) -> pd.DataFrame:
    """The rows of score files that cells name."""
    rows = ScoreRows()
    for cell, name in files:
        rows.add(**_keys(cell), table=read_scores(named_file(cell, name)))
    return rows.frame()
