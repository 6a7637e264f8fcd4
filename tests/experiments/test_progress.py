"""The display: states from events, plain lines without a terminal, a live table with one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.experiments.status.progress import CellState, ProgressDisplay, amount, cell_table

SOAR, SFT = "alignment/soar/seed0", "alignment/sft/seed0"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def display(terminal: bool) -> tuple[ProgressDisplay, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, soft_wrap=not terminal, color_system=None)
    return ProgressDisplay(console, clock), clock, out


def event(cell: str, kind: str, **fields: object) -> dict[str, object]:
    return {"cell": cell, "event": kind, **fields}


def test_plain_lines_tell_events_of_note_only() -> None:
    shown, clock, out = display(terminal=False)
    with shown:
        for cell in (SOAR, SFT):
            shown.handle(event(cell, "queue"))
        shown.handle(event(SOAR, "start"))
        for update in range(1, 101):
            clock.now += 1
            shown.handle(event(SOAR, "step", update=update, fraction=update / 200, cost=96.0 * update, loss=0.5))
            shown.handle(event(SOAR, "evaluate", part=update / 100))
        shown.handle(event(SOAR, "milestone", update=100, fraction=0.5, score=0.42))
        shown.handle(event(SOAR, "note", message="the checkpoint was torn"))
        shown.handle(event(SOAR, "end", status="done", update=200, fraction=1.0))
        shown.handle(event(SFT, "end", status="failed", message="out of [memory]"))
    lines = [line.split(maxsplit=2) for line in out.getvalue().splitlines()]
    assert [line[2] for line in lines] == [
        "starts",
        "50% of the budget, update 100, cost 9.6k, loss 0.5, score 0.42; about 1m40s left",
        "the checkpoint was torn",
        "done after 200 updates, score 0.42; 1 of 2 cells, about 1m40s left",
        "failed: out of [memory]",
    ]
    assert [line[0] for line in lines] == ["0s", "1m40s", "1m40s", "1m40s", "1m40s"]


def test_the_live_table_shows_cells_at_work() -> None:
    shown, clock, out = display(terminal=True)
    with shown:
        shown.handle(event(SFT, "queue"))
        shown.handle(event(SOAR, "start"))
        shown.handle(event(SOAR, "step", update=1, fraction=0.1, loss=0.5))
        clock.now = 30.0
        shown.handle(event(SOAR, "step", update=10, fraction=0.4, cost=9600.0, loss=0.25))
        shown.handle(event(SOAR, "evaluate", part=0.5, fraction=0.4, update=10))
    text = out.getvalue()
    summary = "2 cells: 1 waiting, 30s elapsed, about 2m00s left"
    for part in (SOAR, "judging 50%", "40%", "9.6k", "0.25", "1m00s", summary):
        assert part in text
    assert SFT not in text


def test_time_left_follows_the_pace_since_the_start_or_the_resume() -> None:
    shown, clock, _ = display(terminal=False)
    shown.handle(event(SOAR, "step", update=50, fraction=0.5))
    assert shown.cells[SOAR].seconds_left(clock()) is None
    clock.now = 10.0
    shown.handle(event(SOAR, "step", update=60, fraction=0.6))
    assert shown.cells[SOAR].seconds_left(clock()) == pytest.approx(40.0)


def test_unknown_events_are_a_mistake() -> None:
    shown, _, _ = display(terminal=False)
    with pytest.raises(ValueError, match="unknown progress event 'stpe'"):
        shown.handle(event(SOAR, "stpe"))


def test_amounts_are_short() -> None:
    shown = {None: "", 0.0: "0", 96.0: "96", 999.4: "999", 999.6: "1k", 48_230.0: "48.2k", 3.6e6: "3.6M"}
    assert {value: amount(value) for value in shown} == shown


def test_the_table_fits_80_columns_and_cuts_no_name() -> None:
    long = "text-rendering/soar+sft-resampled+flowgrpo/seed12"
    cells = [
        CellState("alignment/soar+flowgrpo/seed0", "training", 49999, 0.55, 2.65e8, 0.02345, 0.5938),
        CellState(long),
    ]
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(cell_table((cell, 35_940.0) for cell in cells))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[1:] == ["training", "49999", "55%", "265M", "0.02345", "0.5938", "9h59m"]
    assert "".join(line.split(" ")[0] for line in lines[2:]) == long
