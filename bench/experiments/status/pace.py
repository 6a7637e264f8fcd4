"""How far the cells of a run are and how long they will take: one estimate, for the run's own display and for `status`.

What is left of a cell is its training, at the pace of its updates so far, and its evaluations, at what those of the
run's cells have taken so far. Of a cell without a pace of its own those of the same method tell, then those of all.
Nothing is said before there is a pace of training and an evaluation has ended.

A run writes its state into its folder every other second, and removes it at its end.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from bench.api import DataError
from bench.canonical import canonical_json
from bench.config.settings import Evaluation
from bench.files import remove_file, write_whole
from bench.paths import inside
from bench.reading import read_json
from bench.registry import BASE

__all__ = ["CellState", "Judging", "RunState", "forget_state", "judging_of", "read_state", "write_state"]

FILE = "progress.json"
_LEAST_SHARE = 0.02  # of a budget that tells a pace
_OVERDUE = 0.1  # of what an evaluation has taken so far is left, once it takes longer than expected
_ENDED = ("done", "failed")
Kind = Literal["middle", "final"]  # of an evaluation


@dataclass(frozen=True)
class Judging:
    """When cells are judged, and how much: shares of the budget before its end, and sampling steps each time."""

    shares: tuple[float, ...] = ()
    middle: float = 1.0
    final: float = 1.0


@dataclass
class CellState:
    """What is known of one cell. Times are seconds since the epoch.

    last: the last event. setup: seconds from the start to the first update or evaluation. trained: seconds in which
    the share `gained` of the budget was spent. judged: seconds of the evaluation under way, `evaluates` which one.
    judged_to: the share of the budget up to which it was judged.
    """

    name: str
    phase: str = "waiting"
    update: int = 0
    fraction: float = 0.0
    cost: float | None = None
    loss: float | None = None
    score: float | None = None
    last: float | None = None
    setup: float | None = None
    trained: float = 0.0
    gained: float = 0.0
    judged: float = 0.0
    judged_to: float = 0.0
    evaluates: Kind | None = None

    @property
    def method(self) -> str:
        """Its method's label."""
        return self.name.split("/")[1]

    @property
    def pace(self) -> float | None:
        """Training seconds that its whole budget takes."""
        return self.trained / self.gained if self.gained >= _LEAST_SHARE else None


@dataclass
class RunState:
    """The cells of one run by name; `took`: number and seconds of the evaluations of each kind that have ended."""

    judging: Judging = Judging()
    workers: int = 1
    began: float = 0.0
    cells: dict[str, CellState] = field(default_factory=dict)
    took: dict[Kind, tuple[int, float]] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any], now: float) -> CellState:
        """The facts of an event into the state of its cell."""
        cell = self.cells.setdefault(event["cell"], CellState(event["cell"]))
        kind, before = event["event"], cell.fraction
        passed = max(0.0, now - cell.last) if cell.last is not None else 0.0
        for name in ("update", "fraction", "cost", "loss", "score"):
            if event.get(name) is not None and math.isfinite(event[name]):
                setattr(cell, name, event[name])
        if kind == "start":
            cell.phase = "starting"
        elif kind == "step":
            self._step(cell, passed, cell.fraction - before)
        elif kind == "evaluate":
            self._evaluate(cell, passed)
        elif kind in ("milestone", "end"):
            cell.judged += passed
            if kind == "end" or cell.evaluates == "middle":
                self._judged(cell, is_whole=event.get("status") != "failed")
            if kind == "end":
                cell.phase = event["status"]
        if kind not in ("note", "queue"):
            cell.last = now
        return cell

    def _step(self, cell: CellState, passed: float, gained: float) -> None:
        if cell.setup is None:
            cell.setup = passed
            cell.judged_to = cell.fraction * max(0, cell.update - 1) / max(1, cell.update)  # of one that goes on
        else:
            cell.trained += passed
            cell.gained += gained
        cell.phase, cell.evaluates, cell.judged = "training", None, 0.0

    def _evaluate(self, cell: CellState, passed: float) -> None:
        if cell.evaluates is None:
            is_due = any(cell.judged_to < share <= cell.fraction for share in self.judging.shares)
            cell.evaluates = "middle" if is_due and cell.setup is not None else "final"  # without updates the end
            cell.judged = 0.0
        if cell.setup is None:
            cell.setup = passed
        else:
            cell.judged += passed
        cell.phase = "judging"

    def _judged(self, cell: CellState, *, is_whole: bool) -> None:
        """An evaluation has ended; after one in the middle training goes on."""
        if cell.evaluates is not None and is_whole:
            count, seconds = self.took.get(cell.evaluates, (0, 0.0))
            self.took[cell.evaluates] = count + 1, seconds + cell.judged
        cell.judged_to, cell.judged = cell.fraction, 0.0
        cell.phase, cell.evaluates = "training", None

    def cell_seconds(self, cell: CellState, now: float) -> float | None:
        """What is left of a cell that has not ended, at least one second; None where that is not known yet."""
        since = max(0.0, now - cell.last) if cell.last is not None else 0.0
        parts = [
            self._setup_seconds(cell, since), self._training_seconds(cell, since), self._judging_seconds(cell, since),
        ]  # fmt: skip
        return None if None in parts else max(1.0, sum(part for part in parts if part is not None))

    def _setup_seconds(self, cell: CellState, since: float) -> float:
        known = [one.setup for one in self.cells.values() if one.setup is not None and one.method != BASE]
        if cell.setup is not None or cell.method == BASE or not known:
            return 0.0
        return max(0.0, sum(known) / len(known) - since)

    def _training_seconds(self, cell: CellState, since: float) -> float | None:
        if cell.method == BASE or cell.evaluates == "final":
            return 0.0
        alike = [one for one in self.cells.values() if one.method == cell.method]
        pace = cell.pace or _mean(one.pace for one in alike) or _mean(one.pace for one in self.cells.values())
        if pace is None:
            return None
        return max(0.0, pace * (1 - cell.fraction) - (since if cell.phase == "training" else 0.0))

    def _judging_seconds(self, cell: CellState, since: float) -> float | None:
        final, middle = self._expected("final"), self._expected("middle")
        if final is None or middle is None:
            return None
        to_come = [share for share in self.judging.shares if share > max(cell.fraction, cell.judged_to)]
        is_last = cell.method == BASE or cell.evaluates == "final"
        left = 0.0 if is_last else len(to_come) * middle
        if cell.evaluates is not None:
            spent = cell.judged + since
            left += max((middle if cell.evaluates == "middle" else final) - spent, _OVERDUE * spent)
        return left if cell.evaluates == "final" else left + final

    def _expected(self, kind: Kind) -> float | None:
        """Seconds of an evaluation: the mean of those that have ended, else by its share of the work of the others."""
        if kind in self.took:
            count, seconds = self.took[kind]
            return seconds / count
        work = {"middle": self.judging.middle, "final": self.judging.final}
        for other, (count, seconds) in self.took.items():
            return seconds / count * work[kind] / work[other]
        return None

    def seconds_left(self, now: float) -> float | None:
        """Until all cells have ended, each taken up by the first worker that is free.

        None where that is not known, and where all have ended.
        """
        left = {name: self.cell_seconds(cell, now) for name, cell in self.cells.items() if cell.phase not in _ENDED}
        known = {name: seconds for name, seconds in left.items() if seconds is not None}
        if not left or len(known) < len(left):
            return None
        busy = [seconds for name, seconds in known.items() if self.cells[name].phase != "waiting"]
        free = [*busy, *[0.0] * (self.workers - len(busy))]
        heapq.heapify(free)
        for name, seconds in known.items():
            if self.cells[name].phase == "waiting":
                heapq.heapreplace(free, free[0] + seconds)
        return max(free)


def judging_of(evaluation: Evaluation) -> Judging:
    """When and how much these settings judge; the drift from the base, which is small, is left out."""
    e = evaluation
    sets = [one.samples * (one.found.chosen if one.found else 0) for one in e.prompt_sets.values()]
    pictures = e.final_prompts + e.held_out_prompts + e.pictures + e.diversity_prompts * e.diversity_samples + sum(sets)
    grid = e.grid_prompts * len(e.grid_guidance) * sum(e.grid_steps)
    return Judging(e.milestones[:-1], float(e.milestone_prompts * e.steps), float(pictures * e.steps + grid))


def write_state(folder: Path, state: RunState) -> None:
    """Store the state of the run in results/<experiment>; raises DataError where it cannot be written."""
    write_whole(inside(folder, FILE), canonical_json(asdict(state)).encode())


def forget_state(folder: Path) -> None:
    """Remove what `write_state` stored."""
    remove_file(inside(folder, FILE))


def read_state(folder: Path) -> RunState | None:
    """The state that the run in results/<experiment> stored last; None where there is none.

    Raises:
        DataError: it is damaged, or a link stands in its place.
    """
    path = inside(folder, FILE)
    try:
        return TypeAdapter(RunState).validate_python(read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DataError(f"{path} cannot be read ({why}): remove it; only the time left is told by it") from error


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
