"""Reading `results/<experiment>` into pandas frames; nothing here computes, and nothing is skipped in silence.

Every cell is verified as it is read. One that is not whole is refused, with its reasons, and takes no other with it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.results.records.cell_reader import CellResult, look_at_cell
from bench.results.records.schema import LEDGER, SCORE_COLUMNS, ExperimentHeader, LedgerEntry
from bench.results.records.score_files import KEYS, ScoreRows
from bench.results.records.writer import read_experiment_header

__all__ = ["KEYS", "ExperimentResults", "RefusedCell", "read_experiment"]


@dataclass(frozen=True)
class RefusedCell:
    """A cell that is not what was recorded, by the folder that it lies in, and why: a sentence each."""

    task: str
    method: str
    seed: str
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """task/method/seed<k>."""
        return f"{self.task}/{self.method}/{self.seed}"


@dataclass(frozen=True)
class ExperimentResults:
    """All cells of one experiment, and frames over them; every frame begins with task, method, seed.

    What was `refused` is in none of them.

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
    refused: tuple[RefusedCell, ...] = ()

    def refused_by_reason(self) -> list[tuple[str, str]]:
        """Why cells were refused, one entry a reason: the first of the cells that share it with their number."""
        cells: dict[str, list[str]] = {}
        for cell in self.refused:
            for reason in cell.reasons:
                cells.setdefault(reason, []).append(cell.name)
        return [(f"{of[0]} and {len(of) - 1} more" if of[1:] else of[0], reason) for reason, of in cells.items()]


def read_experiment(folder: Path) -> ExperimentResults:
    """Read everything in results/<experiment>.

    A cell is refused whose record is damaged (a torn last line is reported), changed or another cell's, disagrees with
    experiment.json, its score files or itself, or names a file that is missing, another than it was or elsewhere, or
    where a link stands in the place of a file or a folder. Raises DataError where experiment.json is none, or damaged.
    """
    header = read_experiment_header(folder)
    cells: list[CellResult] = []
    samples, grid, sets = ScoreRows(), ScoreRows(), ScoreRows()
    refused: list[RefusedCell] = []
    with _without_collection():
        for place in sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*/seed*")):
            cell, tables, problems = look_at_cell(folder, place, header)
            if problems:
                task, method, seed = place.split("/")
                refused.append(RefusedCell(task, method, seed, tuple(problems)))
            elif cell is not None:
                cells.append(cell)
                # of two evaluations after one update the later one has all prompts
                for file in {item.update: item.file for item in cell.milestones}.values():
                    samples.add(**_keys(cell), table=tables[file])
                if cell.grid:
                    grid.add(**_keys(cell), table=tables[cell.grid.file])
                for item in cell.sets:
                    sets.add(**_keys(cell), table=tables[item.file])
    of_samples, of_grid = samples.frame(), grid.frame()
    scorers = sorted({name for frame in (of_samples, of_grid) for name in frame if name not in (*KEYS, *SCORE_COLUMNS)})
    return ExperimentResults(
        folder=folder,
        header=header,
        results=tuple(cells),
        cells=pd.DataFrame([_cell_row(cell) for cell in cells]),
        steps=pd.DataFrame([row for cell in cells for row in _step_rows(cell)]),
        milestones=pd.DataFrame([row for cell in cells for row in _milestone_rows(cell)]),
        samples=of_samples,
        grid=of_grid,
        scorers=tuple(scorers),
        sets=sets.frame(),
        refused=tuple(refused),
    )


@contextmanager
def _without_collection() -> Iterator[None]:
    """No search for cycles meanwhile: thousands of events hold none, and it would take a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _keys(cell: CellResult) -> dict[str, Any]:
    return {"task": cell.header.task, "method": cell.header.method, "seed": cell.header.seed}


def _ledger(entry: LedgerEntry | None) -> dict[str, Any]:
    found = {name: getattr(entry, name) if entry else None for name in LEDGER}
    return {name: float("nan") if value is None else value for name, value in found.items()}


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
