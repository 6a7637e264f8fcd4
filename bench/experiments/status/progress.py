"""One live display over all cells of a run; plain lines, one per event of note, where there is no terminal.

Events are dicts: `cell` (task/method/seed), `event` (one of `EVENTS`), and what is known of `update`, `fraction`
(0 to 1, of the budget), `cost` (spent so far), `loss`, `score`, `part` (0 to 1, of an evaluation), `message` and
`status` (done, failed).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

EVENTS = ("queue", "start", "step", "evaluate", "milestone", "note", "end")


@dataclass
class CellState:
    """What is known of one cell. `since` is when it started here, `first` the share of the budget spent by then."""

    name: str
    phase: str = "waiting"
    update: int = 0
    fraction: float = 0.0
    cost: float | None = None
    loss: float | None = None
    score: float | None = None
    since: float | None = None
    first: float | None = None

    def seconds_left(self, now: float) -> float | None:
        """Training time left at the pace so far; None while there is none."""
        if self.since is None or self.first is None or self.fraction - self.first < 0.02:
            return None
        return (now - self.since) / (self.fraction - self.first) * (1 - self.fraction)


class ProgressDisplay:
    """Shows cells as their events arrive: `with Display() as display: display.handle(event)`.

    `clock` gives seconds; `console` defaults to standard output, and decides between live display and plain lines.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(soft_wrap=True)
        self.cells: dict[str, CellState] = {}
        self._clock = clock
        self._begin = clock()
        self._live: Live | None = None

    def __enter__(self) -> ProgressDisplay:
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take one event.

        Raises:
            ValueError: the event is of an unknown kind; a mistake in the harness.
        """
        kind = event["event"]
        if kind not in EVENTS:
            raise ValueError(f"unknown progress event {kind!r}")
        cell = self.cells.setdefault(event["cell"], CellState(event["cell"]))
        self._take(cell, event)
        if self._live is None or kind in ("note", "end"):
            self._tell(cell, event)

    def _take(self, cell: CellState, event: Mapping[str, Any]) -> None:
        """The event's facts into the cell's state."""
        kind = event["event"]
        for name in ("update", "fraction", "cost", "loss", "score"):
            if event.get(name) is not None:
                setattr(cell, name, event[name])
        if kind == "start":
            cell.phase = "starting"
        elif kind in ("step", "milestone"):
            cell.phase = "training"
        elif kind == "evaluate":
            part = event.get("part")
            cell.phase = "judging" if part is None else f"judging {part:.0%}"
        elif kind == "end":
            cell.phase = event["status"]
        if kind == "step" and cell.since is None:
            cell.since, cell.first = self._clock(), cell.fraction

    def _tell(self, cell: CellState, event: Mapping[str, Any]) -> None:
        """A line for an event of note."""
        kind, message = event["event"], event.get("message")
        if kind == "start":
            text = "starts"
        elif kind == "milestone":
            left = cell.seconds_left(self._clock())
            text = f"{cell.fraction:4.0%} of the budget, update {cell.update}{_pair('cost', amount(cell.cost))}"
            text += f"{_pair('loss', four_digits(cell.loss))}{_pair('score', four_digits(cell.score))}"
            text += f"; about {clock_text(left)} left" if left and cell.fraction < 1 else ""
        elif kind == "note":
            text = str(message)
        elif kind == "end" and event["status"] == "failed":
            text = f"failed: {message}"
        elif kind == "end":
            text = f"done after {cell.update} updates{_pair('score', four_digits(cell.score))}{self._left()}"
        else:
            return
        elapsed = clock_text(self._clock() - self._begin)
        style = "red" if event.get("status") == "failed" else None
        self.console.print(Text(f"{elapsed:>7}  {cell.name:<32} {text}"), style=style)

    def _left(self) -> str:
        seconds = self.seconds_left()
        return (
            ""
            if not seconds
            else f"; {self._count('done')} of {len(self.cells)} cells, about {clock_text(seconds)} left"
        )

    def _count(self, phase: str) -> int:
        return sum(cell.phase == phase for cell in self.cells.values())

    def seconds_left(self) -> float | None:
        """Time left for all cells at the pace of the whole so far; None while there is none."""
        ended = self._count("done") + self._count("failed")
        spent = ended + sum(c.fraction for c in self.cells.values() if c.phase not in ("done", "failed"))
        if spent < 0.05:
            return None
        return (self._clock() - self._begin) / spent * (len(self.cells) - spent)

    def _render(self) -> Group:
        """The live display: a row for each cell at work, and a line for the rest."""
        now = self._clock()
        at_work = [cell for cell in self.cells.values() if cell.phase not in ("waiting", "done", "failed")]
        table = cell_table((cell, cell.seconds_left(now)) for cell in at_work)
        parts = [f"{self._count(phase)} {phase}" for phase in ("done", "failed", "waiting") if self._count(phase)]
        seconds = self.seconds_left()
        parts.append(f"{clock_text(now - self._begin)} elapsed")
        parts += [f"about {clock_text(seconds)} left"] if seconds else []
        return Group(table, Text(f"{len(self.cells)} cells: {', '.join(parts)}", style="dim"))


def cell_table(cells: Iterable[tuple[CellState, float | None]]) -> Table:
    """A row for each cell with its seconds left, if they are known; in 80 columns, where long names take two lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("cell", overflow="fold")
    table.add_column("", no_wrap=True)
    for title in ("update", "budget", "cost", "loss", "score", "left"):
        table.add_column(title, justify="right", no_wrap=True)
    for cell, left in cells:
        table.add_row(
            escape(cell.name), cell.phase, str(cell.update), f"{cell.fraction:.0%}", amount(cell.cost),
            four_digits(cell.loss), four_digits(cell.score), "" if left is None else clock_text(left),
        )  # fmt: skip
    return table


def four_digits(value: float | None) -> str:
    """Four digits; nothing for None."""
    return "" if value is None else f"{value:.4g}"


def amount(value: float | None) -> str:
    """Three digits with k, M, G or T, as in 48.2k; nothing for None."""
    if value is None:
        return ""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"


def _pair(name: str, value: str) -> str:
    return f", {name} {value}" if value else ""


def clock_text(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
