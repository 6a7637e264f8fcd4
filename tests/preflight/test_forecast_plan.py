"""`bench plan` beside a run that goes on: it counts what is done, and touches nothing."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from bench.api import DataError
from bench.config.job import CellJob
from bench.config.settings import Experiment
from bench.experiments.grid import experiment_jobs
from bench.experiments.resume import cell_header
from bench.locks import hold_lock
from bench.preflight.forecast.plan import measure_plan
from bench.preflight.forecast.render import render_plan
from bench.results.records.writer import CellRecord, cell_status
from tests.support.cells import experiment
from tests.support.synthetic_results import ledger


@pytest.fixture
def planned(tiny_pipeline: Path, tmp_path: Path) -> Experiment:
    """An experiment whose base has gone, so that cells are counted and nothing is measured."""
    shutil.copytree(tiny_pipeline, tmp_path / "base")
    return experiment(tmp_path / "base", methods=["sft", "soar"])


def begin(planned: Experiment, results: Path) -> tuple[CellJob, ...]:
    """Records of all cells, begun; the first is done. The base goes away."""
    cells = tuple(experiment_jobs(planned, results))
    for job in cells:
        CellRecord(job.folder).start(cell_header(job, "cpu"))
    CellRecord(cells[0].folder).append("end", status="done", reason=None, ledger=ledger())
    shutil.rmtree(planned.model or "")
    return cells


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_line_that_a_run_is_writing_is_left_alone(planned: Experiment, tmp_path: Path) -> None:
    cells = begin(planned, tmp_path / "results")
    record = cells[1].folder / "record.jsonl"
    CellRecord(cells[1].folder).append("step", update=1, ledger=ledger(3.0, 1), metrics={"loss": 0.5})
    whole = record.read_bytes()
    with (
        hold_lock(tmp_path / "results" / planned.name / "run.lock"),
        hold_lock(cells[1].folder / "checkpoint" / "cell.lock"),
    ):
        record.write_bytes(whole[:-20])
        before = contents(tmp_path)
        plan = measure_plan(planned, tmp_path / "results")
        assert contents(tmp_path) == before
        with record.open("ab") as file:
            file.write(whole[-20:])
    assert (plan.cells, plan.done) == (3, 1)
    assert "3 cells, 1 of them done" in " ".join(render_plan(planned, plan).split())
    assert [event.kind for event in CellRecord(cells[1].folder).events()] == ["cell", "step"]


@pytest.mark.slow
def test_nothing_is_lost_while_it_looks_again_and_again(planned: Experiment, tmp_path: Path) -> None:
    cells = begin(planned, tmp_path / "results")

    def work() -> None:
        record = CellRecord(cells[1].folder)
        for update in range(1, 101):
            record.append("step", update=update, ledger=ledger(3.0 * update, update), metrics={"loss": 0.5})
            if update % 20 == 0:
                record.truncate(update)
                record.append("step", update=update, ledger=ledger(3.0 * update, update), metrics={"loss": 0.5})
        record.append("end", status="done", reason=None, ledger=ledger(300.0, 100))

    writer = threading.Thread(target=work)
    writer.start()
    seen = [measure_plan(planned, tmp_path / "results").done]
    while writer.is_alive():
        seen.append(measure_plan(planned, tmp_path / "results").done)
    writer.join()
    assert len(seen) > 3 and set(seen) <= {1, 2}
    assert measure_plan(planned, tmp_path / "results").done == 2
    assert len(CellRecord(cells[1].folder).events()) == 102


@pytest.mark.slow
def test_a_damaged_record_is_one_message(planned: Experiment, tmp_path: Path) -> None:
    cells = begin(planned, tmp_path / "results")
    record = cells[2].folder / "record.jsonl"
    record.write_bytes(record.read_bytes().replace(b'"kind"', b'"kin\xff"', 1))
    with pytest.raises(DataError, match=r"record\.jsonl: not UTF-8 text"):
        measure_plan(planned, tmp_path / "results")
    shutil.rmtree(cells[2].folder)
    cells[2].folder.write_text("no folder")
    assert cell_status(cells[2].folder) == "new"
