"""What runs, how far it is and how long it will take, read from records, telemetry and lock files alone.

Nothing is written and no lock is taken, so that it may be asked at any time, from any process that sees the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from bench.budget import Budget, Ledger
from bench.experiments.status.progress import CellState
from bench.locks import Holder, lock_holder
from bench.paths import inside
from bench.results.records.listing import list_cells
from bench.results.records.schema import BASE, Cell, End, Event, ExperimentHeader, LedgerEntry, Milestone, Step
from bench.results.records.writer import read_events, read_experiment_header, read_telemetry, status_of

_AT_WORK = ("training", "judging", "starting")
_SHORTEST = 0.02  # share of a budget that tells a pace
Kind = Literal["step", "milestone", "end"]  # of telemetry


@dataclass(frozen=True)
class CellView:
    """One cell: what is shown of it, the seconds that its whole budget takes (None: not known), and why it failed."""

    state: CellState
    whole: float | None = None
    reason: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """Of a cell at work: training and evaluations left, at the pace since it was started or went on."""
        is_at_work = self.state.phase in _AT_WORK
        return self.whole * (1 - self.state.fraction) if is_at_work and self.whole is not None else None


@dataclass(frozen=True)
class ExperimentView:
    """One experiment: its cells, those included that the run has still to begin, and who runs it."""

    name: str
    folder: Path
    cells: tuple[CellView, ...]
    run: Holder | None

    @property
    def is_running(self) -> bool:
        """Whether a run holds it that lives, as far as can be seen from here."""
        return self.run is not None and self.run.lives

    @property
    def is_finished(self) -> bool:
        """Whether all there is to say are the scores."""
        return not self.is_running and all(cell.state.phase == "done" for cell in self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Until the run ends: what is left of all cells at the mean pace of each method, shared out to the workers."""
        paces = {_method(cell): cell.whole for cell in self.cells if cell.whole is not None}
        if not self.is_running or not paces or self.run is None:
            return None
        mean = sum(paces.values()) / len(paces)
        left = [
            paces.get(_method(cell), mean) * (1 - cell.state.fraction)
            for cell in self.cells
            if cell.state.phase not in ("done", "failed")
        ]
        workers = max(1, int(self.run.about.get("workers", 1)))
        return max(sum(left) / workers, max(left, default=0.0))


def look(folder: Path) -> ExperimentView:
    """What is known of the experiment in results/<experiment>.

    Raises:
        DataError: there is none, or a record is damaged.
    """
    header = read_experiment_header(folder)
    run = lock_holder(folder / "run.lock")
    names = {cell.relative_to(folder).as_posix() for cell in list_cells(folder)}
    if run is not None and run.lives:
        names |= {str(name) for name in run.about.get("cells", ())}
    cells = [_cell(header, folder, name) for name in sorted(names, key=_place)]
    return ExperimentView(header.name, folder, tuple(cells), run)


def _place(name: str) -> tuple[str, bool, str, int]:
    """Sorts cells by task, then the base, then methods, by seed."""
    task, method, seed = name.split("/")
    return task, method != "base", method, int(seed.removeprefix("seed"))


def _method(cell: CellView) -> str:
    return cell.state.name.split("/")[1]


def _cell(header: ExperimentHeader, experiment: Path, name: str) -> CellView:
    folder = inside(experiment, name)
    events = read_events(folder)
    state = CellState(name, _phase(folder, events))
    if not events:
        return CellView(state)
    seconds = {(line.kind, line.update): line.seconds for line in read_telemetry(folder)}
    shares: dict[tuple[Kind, int], float] = {}
    for event in events:
        if isinstance(event, Step | Milestone):
            spent = seconds.get((event.kind, event.update), 0.0)
            state.update, state.cost = event.update, event.ledger.cost
            state.fraction = _share(events[0], event.ledger, spent)
            shares[event.kind, event.update] = state.fraction
        if isinstance(event, Milestone):
            primary = header.primary(name.split("/")[0], event.scores)
            state.score = event.scores[primary].mean if primary else state.score
        if isinstance(event, Step):
            state.loss = event.metrics.get("loss")
    if state.phase == "done":
        state.fraction = 1.0
    reason = events[-1].reason if isinstance(events[-1], End) else None
    return CellView(state, _whole(folder, shares, state), reason)


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


def _whole(folder: Path, shares: Mapping[tuple[Kind, int], float], state: CellState) -> float | None:
    """Seconds that the whole budget takes by the clock, evaluations included, at the pace of the last session."""
    worker = lock_holder(inside(folder, "checkpoint/cell.lock"))
    known = [
        (datetime.fromisoformat(line.time), shares[line.kind, line.update])
        for line in read_telemetry(folder)
        if (line.kind, line.update) in shares
    ]
    if worker is not None and state.phase in _AT_WORK:
        known = [(when, share) for when, share in known if when >= worker.began]
    if not known or known[-1][1] - known[0][1] < _SHORTEST:
        return None
    return (known[-1][0] - known[0][0]).total_seconds() / (known[-1][1] - known[0][1])
