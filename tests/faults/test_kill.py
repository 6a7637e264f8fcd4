"""A run killed at any point, and what it ends with; `tests/stress/kill.py` is the long form."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest

from bench.config.job import CellJob
from bench.config.load import load_settings
from bench.experiments import grid
from bench.experiments.workers import PRELOADED
from bench.results.records.writer import CellRecord
from tests.stress.kill import SETTINGS, digests, kill_cell, session, start, wait_for, workers
from tests.support.cells import Events, experiment, facts, run

LABEL = "soar+flowgrpo"
# One after another on the same cell. Renames: tensors and manifest of every checkpoint, scores, the record when cut.
POINTS = [
    ("step of stage 0", "step", 2),
    ("checkpoint: manifest written, not renamed", "rename", 3),
    ("collect of stage 1, before the reward", "score", 2),  # the first measures what the choice of data takes
    ("evaluation at the end", "evaluate", 4),
]


def kill_at(job: CellJob, kind: str, number: int) -> int | None:
    """Run the cell in a process that is killed there; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=kill_cell, args=(job, kind, number))
    process.start()
    process.join(timeout=300)
    return process.exitcode


def test_a_cell_killed_in_every_phase_ends_as_if_untouched(tiny_pipeline: Path, tmp_path: Path) -> None:
    e = experiment(tiny_pipeline, methods=[LABEL], **{"train.ema_half_life": 0.2, "train.caption_dropout": 0.3})
    job = CellJob(e, tmp_path / "parts", e.tasks[0].name, LABEL, 0)
    updates = []
    for phase, kind, number in POINTS:
        assert kill_at(job, kind, number) == -signal.SIGKILL, phase
        updates.append(max((getattr(event, "update", 0) for event in CellRecord(job.folder).events()), default=0))
    run(e, tmp_path / "parts", LABEL)
    run(e, tmp_path / "whole", LABEL)
    whole = tmp_path / "whole" / e.name / job.name
    assert facts(job.folder) == facts(whole)
    assert facts(job.folder / "checkpoint" / "model") == facts(whole / "checkpoint" / "model")
    assert not list(job.folder.rglob("*.part"))
    last = CellRecord(whole).events()[-1]
    assert updates == sorted(updates) and updates[-1] == last.ledger.updates, "the last point lies after training"


SHORT = """
extends: killed.yaml
methods: [sft]
model: {model}
budget: 200
task: {{scorers: [scenes-geneval, {reward}]}}
evaluation: {{milestones: [0.3, 0.6, 1.0]}}
"""
SILENT = '''
import time
from pathlib import Path
import numpy as np
from bench.api import Reward

class Silent(Reward):
    """Brightness; says nothing for as long as the file `held` is there, once a step of SFT is recorded."""
    name = "silent"

    def __call__(self, images, prompts, metadata):
        folder = Path({folder!r})
        record = folder / "parts/killed/alignment/sft/seed0/record.jsonl"
        while (folder / "held").exists() and record.exists() and b'"step"' in record.read_bytes():
            (folder / "silent").touch()
            time.sleep(0.1)
        return images.astype(np.float32).mean((1, 2, 3)) / 255
'''


def test_a_run_whose_parent_is_killed_leaves_no_worker_and_goes_on(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While its worker is deep in foreign code, and would notice nothing by itself."""
    settings, reward, held = tmp_path / "short.yaml", tmp_path / "silent.py", tmp_path / "held"
    reward.write_text(SILENT.format(folder=str(tmp_path)))
    (tmp_path / "killed.yaml").write_text(SETTINGS)
    settings.write_text(SHORT.format(model=tiny_pipeline, reward=reward))
    held.touch()
    parent = start(settings, tmp_path / "parts", tmp_path / "output.txt")
    assert wait_for((tmp_path / "silent").exists, 300), "it never came to an evaluation"
    assert workers(parent.pid)
    parent.kill()
    parent.wait()
    alone = wait_for(lambda: not session(parent.pid), 30)
    held.unlink()
    assert alone, "a worker lives on without its parent"
    events, e = Events(), load_settings(str(settings))
    assert grid.run_experiment(e, tmp_path / "parts", 1, events) == 0
    out = capsys.readouterr().out
    assert f"the run of process {parent.pid} on " in out and "ended without a word" in out
    assert any(event["event"] == "note" and "was interrupted before; " in event["message"] for event in events.seen)
    assert grid.run_experiment(e, tmp_path / "whole", 1, Events()) == 0
    assert digests(tmp_path / "parts" / "killed") == digests(tmp_path / "whole" / "killed")
