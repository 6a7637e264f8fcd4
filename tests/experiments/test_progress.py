"""The display: states from events, plain lines without a terminal, a live table with one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.experiments.status.pace import CellState, Judging
from bench.experiments.status.progress import ProgressDisplay, amount, cell_table

SOAR, SFT = "alignment/soar/seed0", "alignment/sft/seed0"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def display(terminal: bool) -> tuple[ProgressDisplay, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, soft_wrap=not terminal, color_system=None)
    return ProgressDisplay(console, clock, judging=Judging((0.5,))), clock, out


def event(cell: str, kind: str, **fields: object) -> dict[str, object]:
    return {"cell": cell, "event": kind, **fields}


def test_plain_lines_tell_events_of_note_only() -> None:
    shown, clock, out = display(terminal=False)
    with shown:
        for cell in (SOAR, SFT):
            shown.handle(event(cell, "queue"))
        shown.handle(event(SOAR, "start"))
        for update in range(1, 102):
            clock.now += 1
            shown.handle(event(SOAR, "step", update=update, fraction=update / 202, cost=96.0 * update, loss=0.5))
        clock.now += 10
        shown.handle(event(SOAR, "evaluate", part=1.0))
        shown.handle(event(SOAR, "milestone", update=101, fraction=0.5, score=0.42))
        shown.handle(event(SOAR, "note", message="the checkpoint was torn"))
        clock.now += 40
        shown.handle(event(SOAR, "end", status="done", update=200, fraction=1.0))
        shown.handle(event(SFT, "end", status="failed", message="out of [memory]"))
    assert [line.split(maxsplit=1) for line in out.getvalue().splitlines()] == [
        ["0s", f"{SOAR}       starts"],
        ["1m51s", f"{SOAR}       50%, update 101, score 0.42, 1m51s left"],  # 101 s of training and 10 s of judging
        ["1m51s", f"{SOAR}       the checkpoint was torn"],
        ["2m31s", f"{SOAR}       done, 200 updates, score 0.42"],
        ["2m31s", "2 cells: 1 done, 1 waiting, 2m31s elapsed, about 3m43s left"],
        ["2m31s", f"{SFT}        failed: out of [memory]"],
        ["2m31s", "2 cells: 1 done, 1 failed, 2m31s elapsed"],
    ]


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
    for part in (SOAR, "judging", "40%", "9.6k", "0.25", "2 cells: 1 waiting, 30s elapsed"):
        assert part in text
    assert SFT not in text and "left" not in text.splitlines()[-1]  # no evaluation has ended yet


def test_lines_are_broken_under_their_text_in_a_terminal() -> None:
    shown, _, out = display(terminal=True)
    shown.console.width = 80
    shown.handle(event("alignment/soar+sft-resampled+flowgrpo/seed10", "end", status="failed", message="word " * 40))
    lines = out.getvalue().splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= 80
    assert all(line.startswith(" " * 9 + "word") for line in lines[1:-1])


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
