"""`bench status`: what it reads from a run that goes on, and what it says of one that does not; it only reads."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.api import ConfigError, DataError
from bench.budget import Budget
from bench.canonical import config_hash
from bench.cli.main import main
from bench.cli.status import render_status, show
from bench.experiments.status.pace import CellState, Judging, RunState, write_state
from bench.experiments.status.view import ExperimentView, look
from bench.locks import Holder, hold_lock, lock_holder
from bench.results.records.schema import ExperimentHeader, ScorerInfo, TaskInfo
from bench.results.records.writer import CellRecord, write_experiment_header
from tests.support.synthetic_results import ledger, provenance

CELLS = [f"alignment/{name}" for name in ("base/seed0", "sft/seed0", "soar/seed0")]
HEADER = ExperimentHeader(
    name="long", config={}, config_hash=config_hash({}), methods=("sft", "soar"), budget="1000",
    tasks={"alignment": TaskInfo(reward="scenes-clip")},
    scorers={
        "scenes-geneval": ScorerInfo(gold=True), "scenes-clip": ScorerInfo(gold=False, pair="scenes-geneval"),
    },
)  # fmt: skip


def cell(folder: Path, name: str, budgets: tuple[str, ...] = ("1000 cost",)) -> CellRecord:
    """A cell that has begun."""
    record = CellRecord(folder / name)
    task, method, seed = name.split("/")
    config = {} if method == "base" else {"budgets": list(budgets)}
    record.start(
        {
            "experiment": "long", "task": task, "method": method, "seed": int(seed[4:]), "config": config,
            "config_hash": config_hash(config), "provenance": provenance(),
        }
    )  # fmt: skip
    return record


def step(record: CellRecord, update: int, when: datetime, seconds: float = 0.0, **entries: Any) -> None:
    """A logged step with its telemetry."""
    entries |= {"forward": entries["cost"]} if "cost" in entries else {}
    record.append("step", update=update, ledger=ledger(updates=update, **entries), metrics={"loss": 0.25})
    telemetry(record, "step", update, when, seconds)


def telemetry(record: CellRecord, kind: str, update: int, when: datetime, seconds: float = 0.0) -> None:
    record.telemetry(kind, update=update, seconds=seconds, cpu_seconds=1.0, max_rss_mib=1.0, time=when.isoformat())


def milestone(record: CellRecord, update: int, fraction: float, cost: float = 0.0) -> None:
    """Means of a gold scorer and of the proxy that stands for it."""
    spent = ledger(cost, update, forward=cost)
    record.write_bytes(f"scores-{update:06d}.parquet", b"")
    record.append(
        "milestone", update=update, fraction=fraction, ledger=spent, guidance=3.0, steps=20,
        file=f"scores-{update:06d}.parquet",
        scores={"scenes-clip": {"mean": 0.31, "n": 4}, "scenes-geneval": {"mean": 0.625, "n": 4}},
    )  # fmt: skip


def told(folder: Path, now: float) -> ExperimentView:
    """What is seen after a run of one worker has told of itself: a base judged in 40 s, SFT in its first evaluation."""
    run = RunState(Judging((0.4,), 20.0, 40.0), cells={name: CellState(name) for name in CELLS})
    for passed, name, fields in (
        (-140.0, CELLS[0], {"event": "start"}),
        (-140.0, CELLS[0], {"event": "evaluate", "part": 0.5}),
        (-100.0, CELLS[0], {"event": "end", "status": "done", "fraction": 1.0}),
        (-42.0, CELLS[1], {"event": "start"}),
        (-42.0, CELLS[1], {"event": "step", "update": 1, "fraction": 0.0, "cost": 10.0, "loss": 0.5}),
        (-2.0, CELLS[1], {"event": "step", "update": 40, "fraction": 0.4, "cost": 400.0, "loss": 0.25}),
        (0.0, CELLS[1], {"event": "evaluate", "part": 0.1, "score": 0.5}),
    ):
        run.take({"cell": name, **fields}, now + passed)
    write_state(folder, run)
    return look(folder)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def text(folder: Path, **options: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(render_status(look(folder), **options))
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_experiment_header(tmp_path / "results" / "long", HEADER)
    return tmp_path / "results" / "long"


def test_a_run_that_goes_on(folder: Path) -> None:
    base = cell(folder, CELLS[0])
    milestone(base, 0, 0.0)
    base.append("end", status="done", reason=None, ledger=ledger())
    sft, now = cell(folder, CELLS[1]), datetime.now(UTC)
    step(sft, 1, now - timedelta(hours=9), cost=20.0)  # before it was interrupted: no part of the pace
    with ExitStack() as locks:
        locks.enter_context(hold_lock(folder / "run.lock", about={"cells": CELLS, "workers": 2}))
        locks.enter_context(hold_lock(folder / CELLS[1] / "checkpoint" / "cell.lock"))
        step(sft, 5, now + timedelta(seconds=10), cost=100.0)
        milestone(sft, 20, 0.4, cost=400.0)
        telemetry(sft, "milestone", 20, now + timedelta(seconds=40))
        quiet, view = look(folder), told(folder, now.timestamp())
        before = contents(folder)
        seen = text(folder)
        watched = text(folder, finished=False)
        assert contents(folder) == before
    assert (quiet.seconds_left, [c.seconds_left for c in quiet.cells]) == (None, [None] * 3)  # the run has not told yet
    state = quiet.cells[1].state
    assert [c.state.phase for c in quiet.cells] == ["done", "training", "waiting"]
    assert (state.update, state.cost, state.fraction) == (20, 400.0, 0.4)
    assert (state.score, state.loss) == (0.625, 0.25)  # the gold one that the reward stands for
    training = view.cells[1]
    assert training.state.phase == "judging" and training.seconds_left == pytest.approx(60 + 20 - 2 + 40, abs=1)
    assert view.seconds_left == pytest.approx(118 + 160, abs=1)  # SOAR as SFT: 100 s and judging, by the one worker
    lines = seen.splitlines()
    assert lines[0].startswith(f"long: run by process {os.getpid()} on ")
    assert lines[1].split() == ["cell", "update", "budget", "cost", "loss", "score", "left"]
    assert lines[3].split()[:-1] == [CELLS[1], "judging", "40", "40%", "400", "0.25", "0.5"]
    assert re.fullmatch("3 cells: 1 done, 1 judging, 1 waiting; cost 400; about 4m3[5-8]s left", lines[4])
    assert CELLS[0] in seen and CELLS[0] not in watched
    assert max(map(len, lines)) <= 80


def test_a_run_that_was_killed_and_a_cell_that_failed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sft, soar = cell(folder, CELLS[1]), cell(folder, CELLS[2])
    step(sft, 5, datetime.now(UTC), cost=100.0)
    soar.append("end", status="failed", reason="out of [memory]\nand more", ledger=ledger())
    dead = {"pid": _ended(), "host": os.uname().nodename, "since": datetime.now(UTC).isoformat()}
    (folder / "run.lock").write_text(json.dumps({**dead, "about": {"cells": CELLS}}))
    (folder / CELLS[1] / "checkpoint").mkdir()
    (folder / CELLS[1] / "checkpoint" / "cell.lock").write_text(json.dumps(dead))
    (folder / "run.log").write_text("a word\nbench: the last word\n\n")
    assert main(["status", "--results", str(folder.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"long: the run of process {dead['pid']} on ") and "ended without a word" in lines[0]
    assert lines[2].split()[:5] == [CELLS[1], "interrupted", "5", "10%", "100"]
    assert lines[4] == "2 cells: 1 failed, 1 interrupted; cost 100"
    assert lines[5] == f"{CELLS[2]} failed: out of [memory]"
    assert lines[6] == f"{folder / 'run.log'} ends: bench: the last word"


def test_what_is_finished_takes_a_line_unless_it_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell(folder, CELLS[1]).append("end", status="done", reason=None, ledger=ledger(cost=1234.0))
    show(folder.parent, None, watch=False)
    assert capsys.readouterr().out == "long: 1 cells: 1 done; cost 0\n"
    show(folder.parent, "long", watch=False)
    assert CELLS[1] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("budgets", "entries", "seconds", "share"),
    [
        (("1000 cost",), {"cost": 250.0}, 0.0, 0.25),
        (("1000 cost", "3000 cost"), {"cost": 3000.0}, 0.0, 0.75),  # a chain spends the sum
        (("200 images",), {"images": 30, "samples": 20}, 0.0, 0.25),
        (("60 seconds",), {}, 45.0, 0.75),
        (("10 updates",), {}, 0.0, 0.5),
        (("1e+15 flops",), {"flops": 2e15}, 0.0, 1.0),
    ],
)
def test_the_share_of_the_budget_in_each_unit(
    folder: Path, budgets: tuple[str, ...], entries: dict[str, Any], seconds: float, share: float
) -> None:
    step(cell(folder, CELLS[1], budgets), 5, datetime.now(UTC), seconds, **entries)
    assert look(folder).cells[0].state.fraction == pytest.approx(share)


def test_a_stored_budget_is_the_one_that_was_stored() -> None:
    for budget in (Budget(16000.0, "cost"), Budget(1e15, "flops"), Budget(0.5, "seconds")):
        assert Budget.stored(str(budget)) == budget
    for wrong in ("16000", "many cost", "5 apples", "-1 cost", "nan cost"):
        with pytest.raises(ConfigError, match="as in '16000 cost'"):
            Budget.stored(wrong)


def _ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_who_holds_a_lock_and_whether_that_process_lives(tmp_path: Path) -> None:
    lock, now = tmp_path / "run.lock", datetime.now(UTC)
    assert lock_holder(lock) is None
    with hold_lock(lock, about={"workers": 3}):
        mine = lock_holder(lock)
        assert mine is not None and mine.lives and (mine.pid, mine.about["workers"]) == (os.getpid(), 3)
    assert lock_holder(lock) is None
    assert not Holder(_ended(), mine.host, now.isoformat()).lives
    assert Holder(_ended(), "elsewhere", now.isoformat()).lives  # nobody can tell from here
    earlier = now - timedelta(days=2)
    assert not Holder(os.getpid(), mine.host, earlier.isoformat()).lives  # its number went to this later process
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link"):
        lock_holder(lock)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--results", "nowhere"], "nowhere holds no experiment"),
        (["--name", "lnog"], "no experiment 'lnog' in RESULTS; did you mean 'long'?"),
        (["--watch"], "--watch needs a terminal"),
    ],
)
def test_what_cannot_be_shown_is_one_message(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if "--results" in arguments else ["--results", str(folder.parent)]
    assert main(["status", *where, *arguments]) == 2
    assert message.replace("RESULTS", str(folder.parent)) in capsys.readouterr().err


def test_watching_ends_with_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with pytest.raises(ConfigError, match="nothing runs"):
        show(folder.parent, None, watch=True, console=console)
    sft = cell(folder, CELLS[1])
    run = hold_lock(folder / "run.lock", about={"cells": CELLS[1:2], "workers": 1})
    run.__enter__()

    def end(seconds: float) -> None:
        sft.append("end", status="done", reason=None, ledger=ledger())
        run.__exit__(None, None, None)

    monkeypatch.setattr("bench.cli.status.time.sleep", end)
    show(folder.parent, None, watch=True, console=console)
    assert "interrupted" in out.getvalue()
    assert "long: finished" in out.getvalue() and "1 cells: 1 done" in out.getvalue()
