"""One live display over all cells of a run; plain lines, one per event of note, where there is no terminal.

Events are dicts: `cell` (task/method/seed), `event` (one of `EVENTS`), and what is known of `update`, `fraction`
(0 to 1, of the budget), `loss`, `score`, `part` (0 to 1, of an evaluation), `message` and `status` (done, failed).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
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
    loss: float | None = None
    score: float | None = None
    since: float | None = None
    first: float | None = None

    def seconds_left(self, now: float) -> float | None:
        """Training time left at the pace so far; None while there is none."""
        if self.since is None or self.first is None or self.fraction - self.first < 0.02:
            return None
        return (now - self.since) / (self.fraction - self.first) * (1 - self.fraction)


class Display:
    """Shows cells as their events arrive: `with Display() as display: display.handle(event)`.

    `clock` gives seconds; `console` defaults to standard output, and decides between live display and plain lines.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(soft_wrap=True)
        self.cells: dict[str, CellState] = {}
        self._clock = clock
        self._begin = clock()
        self._live: Live | None = None

    def __enter__(self) -> Display:
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
        for name in ("update", "fraction", "loss", "score"):
            if event.get(name) is not None:
                setattr(cell, name, event[name])
        if kind == "start":
            cell.phase = "starting"
        elif kind in ("step", "milestone"):
            cell.phase = "training"
        elif kind == "evaluate":
            part = event.get("part")
            cell.phase = "evaluating" if part is None else f"evaluating {part:.0%}"
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
            text = f"{cell.fraction:4.0%} of the budget, update {cell.update}{_pair('loss', cell.loss)}"
            text += _pair("score", cell.score)
        elif kind == "note":
            text = str(message)
        elif kind == "end" and event["status"] == "failed":
            text = f"failed: {message}"
        elif kind == "end":
            text = f"done after {cell.update} updates{_pair('score', cell.score)}{self._left()}"
        else:
            return
        elapsed = _clock_text(self._clock() - self._begin)
        style = "red" if event.get("status") == "failed" else None
        self.console.print(Text(f"{elapsed:>7}  {cell.name:<32} {text}"), style=style)

    def _left(self) -> str:
        seconds = self.seconds_left()
        return (
            ""
            if not seconds
            else f"; {self._count('done')} of {len(self.cells)} cells, about {_clock_text(seconds)} left"
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
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title, justify in (
            ("cell", "left"), ("", "left"), ("update", "right"), ("budget", "left"), ("left", "right"),
            ("loss", "right"), ("score", "right"), ("time left", "right"),
        ):  # fmt: skip
            table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for cell in self.cells.values():
            if cell.phase in ("waiting", "done", "failed"):
                continue
            left = cell.seconds_left(now)
            bar = ProgressBar(total=1.0, completed=cell.fraction, width=20)
            table.add_row(
                escape(cell.name), cell.phase, str(cell.update), bar,
                f"{1 - cell.fraction:.0%}", _number(cell.loss), _number(cell.score),
                "" if left is None else _clock_text(left),
            )  # fmt: skip
        parts = [f"{self._count(phase)} {phase}" for phase in ("done", "failed", "waiting") if self._count(phase)]
        seconds = self.seconds_left()
        parts.append(f"{_clock_text(now - self._begin)} elapsed")
        parts += [f"about {_clock_text(seconds)} left"] if seconds else []
        return Group(table, Text(f"{len(self.cells)} cells: {', '.join(parts)}", style="dim"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _pair(name: str, value: float | None) -> str:
    return "" if value is None else f", {name} {value:.4g}"


def _clock_text(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
