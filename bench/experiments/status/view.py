"""What runs, how far it is and how long it will take, read from records, telemetry and lock files alone.

Nothing is written and no lock is taken, so that it may be asked at any time, from any process that sees the results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from bench.budget import Budget, Ledger
from bench.experiments.status.pace import CellState, RunState, read_state
from bench.locks import Holder, lock_holder
from bench.paths import inside
from bench.results.records.listing import list_cells
from bench.results.records.schema import BASE, Cell, End, Event, ExperimentHeader, LedgerEntry, Milestone, Step
from bench.results.records.writer import read_events, read_experiment_header, read_telemetry, status_of

_AT_WORK = ("training", "judging", "starting")
Kind = Literal["step", "milestone", "end"]  # of telemetry


@dataclass(frozen=True)
class CellView:
    """One cell: what is shown of it, the seconds left of one at work (None: not known), and why it failed."""

    state: CellState
    seconds_left: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ExperimentView:
    """One experiment: its cells, those included that the run has still to begin, and who runs it."""

    name: str
    folder: Path
    cells: tuple[CellView, ...]
    run: Holder | None
    seconds_left: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run holds it that lives, as far as can be seen from here."""
        return self.run is not None and self.run.lives

    @property
    def is_finished(self) -> bool:
        """Whether all there is to say are the scores."""
        return not self.is_running and all(cell.state.phase == "done" for cell in self.cells)


def look(folder: Path) -> ExperimentView:
    """What is known of the experiment in results/<experiment>.

    Of cells at work it is what their run says, and so is the time left; of all others what is recorded.

    Raises:
        DataError: there is none, or a record is damaged.
    """
    header = read_experiment_header(folder)
    run, now = lock_holder(folder / "run.lock"), time.time()
    names = {cell.relative_to(folder).as_posix() for cell in list_cells(folder)}
    told = None
    if run is not None and run.lives:
        names |= {str(name) for name in run.about.get("cells", ())}
        told = read_state(folder)
    cells = [_told(told, name, now) or _cell(header, folder, name) for name in sorted(names, key=_place)]
    return ExperimentView(header.name, folder, tuple(cells), run, told.seconds_left(now) if told else None)


def _told(run: RunState | None, name: str, now: float) -> CellView | None:
    """A cell at work as its run has told of it last."""
    state = run.cells.get(name) if run else None
    return CellView(state, run.cell_seconds(state, now)) if run and state and state.phase in _AT_WORK else None


def _place(name: str) -> tuple[str, bool, str, int]:
    """Sorts cells by task, then the base, then methods, by seed."""
    task, method, seed = name.split("/")
    return task, method != "base", method, int(seed.removeprefix("seed"))


def _cell(header: ExperimentHeader, experiment: Path, name: str) -> CellView:
    folder = inside(experiment, name)
    events = read_events(folder)
    state = CellState(name, _phase(folder, events))
    if not events:
        return CellView(state)
    seconds: dict[tuple[Kind, int], float] = {(it.kind, it.update): it.seconds for it in read_telemetry(folder)}
    for event in events:
        if isinstance(event, Step | Milestone):
            spent = seconds.get((event.kind, event.update), 0.0)
            state.update, state.cost = event.update, event.ledger.cost
            state.fraction = _share(events[0], event.ledger, spent)
        if isinstance(event, Milestone):
            primary = header.primary(name.split("/")[0], event.scores)
            state.score = event.scores[primary].mean if primary else state.score
        if isinstance(event, Step):
            state.loss = event.metrics.get("loss")
    if state.phase == "done":
        state.fraction = 1.0
    reason = events[-1].reason if isinstance(events[-1], End) else None
    return CellView(state, reason=reason)


def _phase(folder: Path, events: Sequence[Event]) -> str:
    status = status_of(list(events))
    if status in ("done", "failed"):
        return status
    worker = lock_holder(inside(folder, "checkpoint/cell.lock"))
    if worker is None or not worker.lives:
        return "waiting" if status == "new" else "interrupted"
    if not any(isinstance(event, Step | Milestone) for event in events):
        return "judging" if folder.parent.name == BASE and len(events) > 1 else "starting"
    return "training" if isinstance(events[-1], Step) or _is_before_end(events[-1]) else "judging"


def _is_before_end(event: Event) -> bool:
    return isinstance(event, Milestone) and event.fraction < 1.0


def _share(cell: Event, ledger: LedgerEntry, seconds: float) -> float:
    """The share of its whole budget, over all stages, that a cell has spent; the base has none."""
    budgets = [Budget.stored(text) for text in cell.config.get("budgets", ())] if isinstance(cell, Cell) else []
    if not budgets:
        return 0.0
    entries = {name: value for name, value in asdict(ledger).items() if name != "cost"}
    spent = Ledger.from_state({**entries, "seconds": seconds}).spent(budgets[0].unit)
    return min(1.0, spent / sum(budget.amount for budget in budgets))
