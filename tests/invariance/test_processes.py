"""Several processes that train a cell together find what one finds at the same global batch, killed ones included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.configuration.job import CellJob
from bench.records.record import CellRecord
from bench.records.schema import Cell, End, Milestone
from tests.cells import experiment, facts, options, run
from tests.together import lose_one, together, train_together

# Odd numbers, so that shares are unequal; statistics over all groups; averaging that follows the budget
SHARED: dict[str, Any] = {
    "train.batch_size": 7, "train.micro_batch": 2, "train.ema_half_life": 0.2, "train.caption_dropout": 0.3,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": SHARED,
    "soar": {**SHARED, "soar.num_points": 1},
    "flowgrpo": {
        **SHARED, "flowgrpo.num_groups": 3, "flowgrpo.updates": 2, "flowgrpo.scale_rewards": "batch",
        "budget": "900",  # two rollout phases, with room left: unequal shares may end an update earlier
    },
}  # fmt: skip


def weights(folder: Path) -> torch.Tensor:
    """All weights of a transformer in one vector of float64."""
    file = next(folder.glob("*.safetensors"))
    return torch.cat([tensor.double().flatten() for _, tensor in sorted(load_file(file).items())])


def by_torchrun(job: CellJob, pipeline: Path) -> None:
    """Two processes that torchrun starts on the command line."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "bench", "run"]
    settings = options(pipeline, methods=[job.label], **SETTINGS[job.label])
    command = [sys.executable, *launch, "--preset=smoke", f"--results={job.results}", *settings]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("report  ") == 1, "one process speaks for both"


def by_hand(job: CellJob, pipeline: Path) -> None:
    """The same two without torchrun's own seconds."""
    assert together(2, train_together, job) == [0, 0]


@pytest.mark.parametrize(
    ("label", "launch"),
    [("sft", by_hand), ("soar", by_hand), ("flowgrpo", by_torchrun)],
    ids=["sft", "soar", "torchrun"],
)
def test_two_processes_equal_one(
    tiny_pipeline: Path, tmp_path: Path, label: str, launch: Callable[[CellJob, Path], None]
) -> None:
    """They add up in another order: the weights differ by less than 1e-4 of how far they moved."""
    e = experiment(tiny_pipeline, methods=[label], **SETTINGS[label])
    jobs = [CellJob(e, tmp_path / name / "results", "alignment", label, 0) for name in ("one", "two")]
    run(e, jobs[0].results, label)
    launch(jobs[1], tiny_pipeline)
    one, two = (job.folder for job in jobs)
    start, model = weights(tiny_pipeline / "transformer"), Path("checkpoint") / "model"
    moved = weights(one / model) - start
    assert moved.norm() > 5e-4 * start.norm(), "nothing was trained"
    assert (weights(two / model) - weights(one / model)).norm() < 1e-4 * moved.norm()

    of_one, of_both = CellRecord(one).events(), CellRecord(two).events()
    assert [event.kind for event in of_one] == [event.kind for event in of_both]
    assert isinstance(of_one[0], Cell) and isinstance(of_both[0], Cell)
    assert of_one[0].config_hash == of_both[0].config_hash
    for a, b in zip(of_one, of_both, strict=True):
        if isinstance(a, Milestone | End) and isinstance(b, Milestone | End):
            assert dict(b.ledger) == pytest.approx(dict(a.ledger), rel=1e-12)
        if isinstance(a, Milestone) and isinstance(b, Milestone):
            for name, score in a.scores.items():
                assert b.scores[name].n == score.n and b.scores[name].mean == pytest.approx(score.mean, abs=0.05)


def test_a_lost_process_fails_the_cell_and_the_next_run_goes_on(tiny_pipeline: Path, tmp_path: Path) -> None:
    """One of two is killed after its fourth update; the last checkpoint lies between two updates of one buffer."""
    e = experiment(tiny_pipeline, methods=["flowgrpo"], **SETTINGS["flowgrpo"])
    whole, parts = (CellJob(e, tmp_path / name, "alignment", "flowgrpo", 0) for name in ("whole", "parts"))
    assert together(2, train_together, whole) == [0, 0]
    assert together(2, lose_one, parts, "step", 4) == [1, -9]
    end = CellRecord(parts.folder).events()[-1]
    assert isinstance(end, End) and end.status == "failed"
    assert end.reason is not None and "process 0 of 2 has lost another one" in end.reason
    assert together(2, train_together, parts) == [0, 0]
    assert facts(parts.folder) == facts(whole.folder)
    assert facts(parts.folder / "checkpoint" / "model") == facts(whole.folder / "checkpoint" / "model")
