"""All cells: headers, locks, workers that die."""

from __future__ import annotations

import dataclasses
import fcntl
import multiprocessing
import os
import re
import signal

import pytest

from bench.api import DataError
from bench.config.search import Search
from bench.experiments import grid
from bench.results.records.writer import CellRecord, write_experiment_header
from tests.support.cells import Events, experiment
from tests.support.synthetic_results import as_schema_1


def test_cells_are_bases_then_methods_by_seed(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft", "soar"], seeds=2)
    assert [job.name for job in grid.experiment_jobs(e, tmp_path)] == [
        "alignment/base/seed0", "alignment/sft/seed0", "alignment/soar/seed0", "alignment/sft/seed1",
        "alignment/soar/seed1",
    ]  # fmt: skip


def test_a_second_run_adds_its_methods_to_the_table(tiny_pipeline, tmp_path):
    first, second = (experiment(tiny_pipeline, methods=[m], seeds=s) for m, s in (("sft", 1), ("soar", 3)))
    folder = tmp_path / first.name
    folder.mkdir()
    write_experiment_header(folder, grid.experiment_header(first, folder))
    held = grid.experiment_header(second, folder)
    assert held.methods == ("sft", "soar")
    assert held.config_hash == grid.experiment_header(first, folder).config_hash
    other = experiment(tiny_pipeline, methods=["sft"], budget="999")
    with pytest.raises(DataError, match=r"budget is 999, was 400.* another --name"):
        write_experiment_header(folder, grid.experiment_header(other, folder))


@pytest.mark.parametrize(("given", "recorded"), [(None, 3), (0, 0), (5, 5)])
def test_a_run_that_says_nothing_of_tuning_trials_keeps_what_is_recorded(tiny_pipeline, tmp_path, given, recorded):
    first, second = (experiment(tiny_pipeline, methods=["sft"], tuning_trials=trials) for trials in (3, given))
    folder = tmp_path / first.name
    folder.mkdir()
    write_experiment_header(folder, grid.experiment_header(first, folder))
    assert grid.experiment_header(second, folder).trials == recorded


def test_a_header_keeps_the_search_that_a_later_run_says_nothing_of(tiny_pipeline, tmp_path):
    searched, plain = experiment(tiny_pipeline, methods=["sft"]), experiment(tiny_pipeline, methods=["sft"])
    search = Search({"all": {"train.batch_size": [2, 4]}})
    folder = tmp_path / plain.name
    folder.mkdir()
    write_experiment_header(folder, grid.experiment_header(dataclasses.replace(searched, search=search), folder))
    assert grid.experiment_header(plain, folder).search == search
    with pytest.raises(DataError, match="another --name"):
        grid.experiment_header(dataclasses.replace(searched, search=Search(search.space, seed=1)), folder)


def test_a_header_that_says_the_same_stays_as_it_is_in_an_older_schema_too(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft"])
    folder = tmp_path / e.name
    folder.mkdir()
    write_experiment_header(folder, grid.experiment_header(e, folder))
    as_schema_1(folder)
    older = (folder / "experiment.json").read_bytes()
    write_experiment_header(folder, grid.experiment_header(e, folder))
    assert (folder / "experiment.json").read_bytes() == older
    more = experiment(tiny_pipeline, methods=["sft", "soar"])
    write_experiment_header(folder, grid.experiment_header(more, folder))
    assert b'"schema": 3' in (folder / "experiment.json").read_bytes()


def test_a_held_folder_is_refused_with_its_holder(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft"])
    folder = tmp_path / e.name
    folder.mkdir()
    with (folder / "run.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write('{"pid": 4711, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}')
        held.flush()
        with pytest.raises(DataError, match="process 4711 on elsewhere since 2026-01-01"):
            grid.run_experiment(e, tmp_path, 1, Events())
    # A lock that nobody holds any more is none
    assert (folder / "run.lock").exists()


def test_cells_run_in_workers_and_a_killed_one_is_told_and_resumed(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft"])
    killed = []

    def kill_once(event):
        if event["event"] == "step" and not killed:
            killed.append(event["cell"])
            victims = multiprocessing.active_children()
            assert [v.name for v in victims] == ["alignment/sft/seed0"]
            os.kill(victims[0].pid, signal.SIGKILL)

    events = Events(kill_once)
    assert grid.run_experiment(e, tmp_path, 2, events) == 1
    assert killed == ["alignment/sft/seed0"]
    end = [x for x in events.seen if x["event"] == "end"][-1]
    assert end["status"] == "failed" and "SIGKILL" in end["message"]
    advice = r"it held [\d,]+ MiB at its peak.*try --workers 1, or --train.micro_batch 4 \(now 8\)"
    assert re.search(advice, end["message"])
    assert CellRecord(tmp_path / e.name / "alignment" / "sft" / "seed0").status() == "failed"
    again = Events()
    assert grid.run_experiment(e, tmp_path, 2, again) == 0
    assert {x["cell"] for x in again.seen} == {"alignment/sft/seed0"}
    assert CellRecord(tmp_path / e.name / "alignment" / "sft" / "seed0").status() == "done"
