"""Reading `results/<experiment>` into pandas frames; nothing here computes, and nothing is skipped in silence.

Every cell is verified as it is read. One that is not whole is refused, with its reasons, and takes no other with it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from bench.api import DataError
from bench.paths import inside
from bench.results.records.hashes import refuse_other_data
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
from bench.results.records.verification import cell_problems, picture_problems, record_problems, score_problems
from bench.results.records.writer import EXPERIMENT, RECORD, read_experiment_header, read_lines, read_telemetry

__all__ = [
    "KEYS",
    "CellResult",
    "ExperimentResults",
    "RefusedCell",
    "damaged",
    "list_experiments",
    "named_file",
    "read_cell",
    "read_experiment",
]

KEYS = ["task", "method", "seed"]
# What pandas and pyarrow raise on bytes that are no parquet, on pages that fail their checksum, on names that are none.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArrowException)
LEDGER = tuple(LedgerEntry.model_fields)
Frames = Mapping[str, pd.DataFrame]  # of a cell's score files by name


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


def list_experiments(results: Path) -> list[Path]:
    """Folders under `results` that hold an experiment, or cells of one whose header is gone, sorted by name."""
    headers = {path.parent for path in results.glob(f"*/{EXPERIMENT}")}
    return sorted(headers | {path.parents[3] for path in results.glob(f"*/*/*/seed*/{RECORD}")})


def read_experiment(folder: Path) -> ExperimentResults:
    """Read everything in results/<experiment>.

    A cell is refused whose record is damaged (a torn last line is reported), changed or another cell's, disagrees with
    experiment.json, its score files or itself, or names a file that is missing, another than it was or elsewhere, or
    where a link stands in the place of a file or a folder. Raises DataError where experiment.json is none, or damaged.
    """
    header = read_experiment_header(folder)
    found: list[tuple[CellResult, Frames]] = []
    refused: list[RefusedCell] = []
    for place in sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*/seed*")):
        cell, frames, problems = _look(folder, place, header)
        if problems:
            task, method, seed = place.split("/")
            refused.append(RefusedCell(task, method, seed, tuple(problems)))
        elif cell is not None:
            found.append((cell, frames))
    cells = [cell for cell, _ in found]
    # of two evaluations after one update the later one has all prompts
    samples = _frame(
        (c, frames[file]) for c, frames in found for file in {i.update: i.file for i in c.milestones}.values()
    )
    grid = _frame((c, frames[c.grid.file]) for c, frames in found if c.grid)
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
        sets=_frame((c, frames[item.file]) for c, frames in found for item in c.sets),
        refused=tuple(refused),
    )


def read_cell(folder: Path, header: ExperimentHeader) -> CellResult | None:
    """One cell of an experiment, verified; None for a record without a whole line.

    Raises DataError for one that `read_experiment` refuses.
    """
    cell, _, problems = _look(folder.parents[2], "/".join(folder.parts[-3:]), header)
    if problems:
        raise DataError(f"{folder} is not what was recorded: {'; '.join(problems)}")
    return cell


def _look(folder: Path, place: str, header: ExperimentHeader) -> tuple[CellResult | None, Frames, list[str]]:
    """The cell in the folder `place` of an experiment, its scores, and what is wrong with it.

    No cell for a record without a whole line (killed while it wrote the first one).
    """
    try:
        found = _read_cell(inside(folder, f"{place}/{RECORD}").parent)
        if found is None:
            return None, {}, []
        cell, lines, events = found
        problems = [*_place_problems(folder, cell), *record_problems(lines, events), *cell_problems(header, events)]
        frames, wrong = _read_files(cell, header)
    except DataError as error:  # without where the results lie, which is no part of the report
        told = str(error).replace(f"{folder}/{place}/", "").replace(f"{folder}/", "")
        return None, {}, [told.replace(str(folder), folder.name)]
    return cell, frames, list(dict.fromkeys(problems + wrong))


def _read_cell(folder: Path) -> tuple[CellResult, list[str], list[Event]] | None:
    """One cell, with the lines and events of its record; None for a record without a whole line."""
    path = folder / RECORD
    if not path.exists() and any(folder.glob("*.parquet")):
        raise DataError(f"{path} is missing, but there are score files: restore it, or remove {folder}")
    lines, torn = read_lines(path)
    events = [parse_event(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    if not events:
        return None
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
    return cell, lines, events


def _read_files(cell: CellResult, header: ExperimentHeader) -> tuple[Frames, list[str]]:
    """The score files of a cell, and what is wrong with them and its pictures."""
    frames: dict[str, pd.DataFrame] = {}
    problems: list[str] = []
    named: list[Milestone | PromptSetScores | GridScores] = [*cell.milestones, *cell.sets]
    named += [cell.grid] if cell.grid else []
    for event in {event.file: event for event in named}.values():
        frames[event.file] = _read_scores(named_file(cell, event.file), event.sha256)
        problems += score_problems(header, event, frames[event.file])
    if cell.pictures:
        path = named_file(cell, cell.pictures.file)
        refuse_other_data(path, path.read_bytes(), cell.pictures.sha256)
        try:
            problems += picture_problems(cell.pictures, path)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on bytes that are no whole picture
            raise damaged(path, "a PNG", error) from error
    return frames, problems


def _last(events: list[Event], kind: type[Any]) -> Any:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def _place_problems(folder: Path, cell: CellResult) -> list[str]:
    head = cell.header
    place = folder / head.task / head.method / f"seed{head.seed}"
    return (
        []
        if place == cell.folder
        else [f"it holds the record of {place.relative_to(folder).as_posix()}: move it there"]
    )


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


def damaged(path: Path, kind: str, error: Exception) -> DataError:
    """What to tell of a file of a cell that cannot be read as what it should be."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{path} is damaged: expected {kind}, but reading it failed ({reason}). Restore it, or remove {path.parent} "
        "and run the cell again"
    )


def _read_scores(path: Path, digest: str | None) -> pd.DataFrame:
    data = path.read_bytes()
    refuse_other_data(path, data, digest)
    try:
        frame = pd.read_parquet(io.BytesIO(data), page_checksum_verification=True)
    except _UNREADABLE as error:
        raise damaged(path, "a score file", error) from error
    missing = [column for column in SCORE_COLUMNS if column not in frame]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: it is not a score file")
    return frame


def _frame(parts: Iterator[tuple[CellResult, pd.DataFrame]]) -> pd.DataFrame:
    whole = []
    for cell, frame in parts:
        for position, (key, value) in enumerate(_keys(cell).items()):
            frame.insert(position, key, value)
        whole.append(frame)
    return pd.concat(whole, ignore_index=True) if whole else pd.DataFrame(columns=[*KEYS, *SCORE_COLUMNS])
