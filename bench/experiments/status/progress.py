"""One live display over all cells of a run; plain lines, one per event of note, where there is no terminal.

Events are dicts: `cell` (task/method/seed), `event` (one of `EVENTS`), and what is known of `update`, `fraction`
(0 to 1, of the budget), `cost` (spent so far), `loss`, `score`, `part` (0 to 1, of an evaluation), `message` and
`status` (done, failed).
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.api import DataError
from bench.experiments.status.pace import CellState, Judging, RunState, forget_state, write_state

EVENTS = ("queue", "start", "step", "evaluate", "milestone", "note", "end")
WRITE_SECONDS = 2.0  # between two looks that `status` may have at the state
_INDENT = 9  # letters before the text of a plain line


class ProgressDisplay:
    """Shows cells as their events arrive: `with Display() as display: display.handle(event)`.

    `clock` gives seconds since the epoch; `console` defaults to standard output, and decides between live display and
    plain lines. `folder` is where `bench status` finds the state of the run.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.time, *,
        judging: Judging | None = None, workers: int = 1, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.console = console or Console(soft_wrap=True)
        self.state = RunState(judging or Judging(), workers, clock())
        self._clock = clock
        self._folder = folder
        self._written = 0.0
        self._live: Live | None = None

    @property
    def cells(self) -> dict[str, CellState]:
        """The cells by name."""
        return self.state.cells

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
        if self._folder is not None and self._written:
            forget_state(self._folder)

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take one event.

        Raises:
            ValueError: the event is of an unknown kind; a mistake in the harness.
        """
        kind = event["event"]
        if kind not in EVENTS:
            raise ValueError(f"unknown progress event {kind!r}")
        cell = self.state.take(event, self._clock())
        if self._live is None or kind in ("note", "end"):
            self._tell(cell, event)
        self._store()

    def _store(self) -> None:
        """Write the state for `status`, now and then; a run does not end because it cannot be written."""
        if self._folder is None or self._clock() - self._written < WRITE_SECONDS:
            return
        try:
            write_state(self._folder, self.state)
            self._written = self._clock()
        except DataError as error:
            self._folder = None
            self._print(f"{error}; `bench status` will not tell the time left", None)

    def _tell(self, cell: CellState, event: Mapping[str, Any]) -> None:
        """A line for an event of note."""
        kind, message = event["event"], event.get("message")
        if kind == "start":
            text = "starts"
        elif kind == "milestone":
            left = self.state.cell_seconds(cell, self._clock())
            text = f"{cell.fraction:.0%}, update {cell.update}{_pair('score', four_digits(cell.score))}"
            text += f", {clock_text(left)} left" if left else ""
        elif kind == "note":
            text = str(message)
        elif kind == "end" and event["status"] == "failed":
            text = f"failed: {message}"
        elif kind == "end":
            text = f"done{f', {cell.update} updates' if cell.update else ''}{_pair('score', four_digits(cell.score))}"
        else:
            return
        self._print(f"{cell.name:<26} {text}", "red" if event.get("status") == "failed" else None)
        if kind == "end" and self._live is None:
            self._print(self._summary(), None)

    def _print(self, text: str, style: str | None) -> None:
        """A line with the time in front; in a terminal, one that is too long goes on under its text."""
        line = f"{clock_text(self._clock() - self.state.began):>{_INDENT - 2}}  {text}"
        if self.console.is_terminal:
            hanging = " " * _INDENT
            lines = textwrap.wrap(line, self.console.width, subsequent_indent=hanging, drop_whitespace=True)
            line = "\n".join(lines)
        self.console.print(Text(line), style=style)

    def _count(self, *phases: str) -> int:
        return sum(cell.phase in phases for cell in self.cells.values())

    def _summary(self) -> str:
        """`12 cells: 3 done, 7 waiting, 45s elapsed, about 2m00s left`."""
        now = self._clock()
        parts = [f"{self._count(phase)} {phase}" for phase in ("done", "failed", "waiting") if self._count(phase)]
        parts.append(f"{clock_text(now - self.state.began)} elapsed")
        left = self.state.seconds_left(now)
        parts += [f"about {clock_text(left)} left"] if left else []
        return f"{len(self.cells)} cells: {', '.join(parts)}"

    def _render(self) -> Group:
        """The live display: a row for each cell at work, and a line for the rest."""
        now = self._clock()
        at_work = [cell for cell in self.cells.values() if cell.phase not in ("waiting", "done", "failed")]
        table = cell_table((cell, self.state.cell_seconds(cell, now)) for cell in at_work)
        return Group(*([table] if at_work else []), Text(self._summary(), style="dim"))


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
