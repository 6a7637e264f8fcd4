"""What is left of a run: hand-computed seconds of training and judging, for the display and for `status` alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.api import DataError
from bench.config.load import load_settings
from bench.experiments.status.pace import FILE, Judging, RunState, forget_state, judging_of, read_state, write_state

BASE, SFT, SOAR = (f"alignment/{name}/seed0" for name in ("base", "sft", "soar"))


def take(run: RunState, now: float, cell: str, kind: str, **fields: object) -> None:
    run.take({"cell": cell, "event": kind, **fields}, now)


def judged_base(run: RunState) -> None:
    """The base: 5 s to its first batch, then 40 s of judging, the milestone within."""
    for cell in (BASE, SFT, SOAR):
        take(run, 0.0, cell, "queue")
    take(run, 0.0, BASE, "start")
    take(run, 5.0, BASE, "evaluate", part=0.5, fraction=0.0, update=0)
    take(run, 25.0, BASE, "milestone", fraction=0.0, update=0, score=0.5)
    take(run, 35.0, BASE, "evaluate", part=1.0, fraction=0.0, update=0)
    take(run, 45.0, BASE, "end", status="done", fraction=1.0, update=0)


@pytest.fixture
def run() -> RunState:
    """Judged once in the middle, with a quarter of the work of the end."""
    return RunState(Judging((0.5,), middle=10.0, final=40.0))


def trained(run: RunState) -> None:
    """SFT: 3 s until its first update, then a fifth of the budget in 20 s."""
    take(run, 45.0, SFT, "start")
    take(run, 48.0, SFT, "step", update=1, fraction=0.1)
    take(run, 68.0, SFT, "step", update=3, fraction=0.3)


def test_training_and_every_evaluation_that_is_to_come_are_counted(run: RunState) -> None:
    judged_base(run)
    assert run.took == {"final": (1, 40.0)} and run.seconds_left(45.0) is None  # nothing has trained
    trained(run)
    sft = run.cells[SFT]
    assert run.cell_seconds(sft, 68.0) == pytest.approx(70 + 10 + 40)  # 100 s a budget; a quarter of 40 s, and 40 s
    assert run.cell_seconds(sft, 70.0) == pytest.approx(118)
    # SOAR trains as SFT does, as far as anyone knows: 3 s, 100 s, 10 s, 40 s; one worker, then two
    assert run.seconds_left(68.0) == pytest.approx(120 + 153)
    run.workers = 2
    assert run.seconds_left(68.0) == pytest.approx(153)


def test_an_evaluation_counts_down_and_is_never_over_before_its_end(run: RunState) -> None:
    judged_base(run)
    trained(run)
    take(run, 90.0, SFT, "step", update=5, fraction=0.5)
    sft, pace = run.cells[SFT], 42 / 0.4
    take(run, 92.0, SFT, "evaluate", part=0.1, fraction=0.5, update=5)
    assert sft.evaluates == "middle"
    assert run.cell_seconds(sft, 95.0) == pytest.approx(pace / 2 + (10 - 5) + 40)
    assert run.cell_seconds(sft, 110.0) == pytest.approx(pace / 2 + 2 + 40)  # overdue: a tenth of its 20 s
    take(run, 96.0, SFT, "milestone", fraction=0.5, update=5, score=0.6)
    assert run.took["middle"] == (1, 6.0) and sft.phase == "training"
    take(run, 140.0, SFT, "step", update=9, fraction=0.98)  # another update would not fit
    take(run, 141.0, SFT, "evaluate", part=0.1, fraction=0.98, update=9)
    assert sft.evaluates == "final"
    assert run.cell_seconds(sft, 141.0) == pytest.approx(40 - 1)
    take(run, 150.0, SFT, "milestone", fraction=0.98, update=9, score=0.6)
    assert run.cell_seconds(sft, 150.0) == pytest.approx(40 - 10)  # grid and pictures are to come
    for cell in (SFT, SOAR):
        take(run, 160.0, cell, "end", status="done" if cell == SFT else "failed")
    assert run.took["final"] == (2, 60.0)
    assert run.seconds_left(160.0) is None


def test_never_nothing_left_while_there_is_something_to_do(run: RunState) -> None:
    judged_base(run)
    trained(run)
    take(run, 69.0, SOAR, "end", status="failed", message="no")
    take(run, 70.0, SFT, "step", update=9, fraction=1.0)
    run.took["final"] = (1, 0.0)
    assert run.seconds_left(1000.0) == run.cell_seconds(run.cells[SFT], 1000.0) == 1.0


def test_a_cell_that_goes_on_is_not_judged_again_at_what_is_behind_it(run: RunState) -> None:
    judged_base(run)
    take(run, 50.0, SFT, "start")
    take(run, 52.0, SFT, "step", update=61, fraction=0.61)
    take(run, 62.0, SFT, "step", update=71, fraction=0.71)
    assert run.cell_seconds(run.cells[SFT], 62.0) == pytest.approx(29 + 40)
    take(run, 50.0, SOAR, "start")  # nothing but its end was left
    take(run, 52.0, SOAR, "evaluate", part=0.1, fraction=1.0, update=100)
    assert run.cells[SOAR].evaluates == "final"


def test_what_status_reads_gives_the_same_numbers(run: RunState, tmp_path: Path) -> None:
    judged_base(run)
    trained(run)
    assert read_state(tmp_path) is None
    write_state(tmp_path, run)
    told = read_state(tmp_path)
    assert told == run and told is not None
    assert told.seconds_left(70.0) == run.seconds_left(70.0) != run.seconds_left(68.0)
    (tmp_path / FILE).write_text('{"workers": "many"}')
    with pytest.raises(DataError, match=r"progress\.json cannot be read .*remove it"):
        read_state(tmp_path)
    forget_state(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_the_work_of_judging_follows_the_settings() -> None:
    evaluation = load_settings("smoke", {}).evaluation
    found = judging_of(evaluation)
    assert found.shares == (0.5,) and found.middle == 16 * 4
    # 32 reported, 8 held out, 6 pictures, 4 x 2 for diversity, 4 steps each; a grid of two scales at 4 steps
    assert found.final == (32 + 8 + 6 + 8) * 4 + 8 * 2 * 4
