"""Several processes that train a cell together find what one finds at the same global batch, killed ones included.

With `shard` they find it too, while each holds only its part of weights, gradients and optimiser's state.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file

from bench.config.job import CellJob
from bench.results.records.schema import Cell, End, Milestone
from bench.results.records.writer import CellRecord
from tests.support.cells import experiment, facts, options, run
from tests.support.rank_processes import lose_one, together, train_in_turn, train_together

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
# A few updates; and one rollout phase, for a pixel that rounds the other way changes the rewards of the next
SHARDED = {
    label: {**settings, "budget": "450" if label == "flowgrpo" else "4updates"} for label, settings in SETTINGS.items()
}
SHARDED["soar+sft"] = {**SETTINGS["soar"], "budget": "4updates"}  # the second begins with what the first put together


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


@pytest.fixture(scope="module")
def of_two(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CellJob]:
    """A cell of each method, trained by two processes: Flow-GRPO's by torchrun, the others without its own seconds."""
    results, jobs = tmp_path_factory.mktemp("two") / "results", {}
    for label, settings in SETTINGS.items():
        e = experiment(tiny_pipeline, methods=[label], **settings)
        jobs[label] = CellJob(e, results, "alignment", label, 0)
    assert together(2, train_in_turn, [jobs["sft"], jobs["soar"]]) == [0, 0]
    by_torchrun(jobs["flowgrpo"], tiny_pipeline)
    return jobs


@pytest.mark.parametrize("label", list(SETTINGS))
def test_two_processes_equal_one(of_two: dict[str, CellJob], tiny_pipeline: Path, tmp_path: Path, label: str) -> None:
    run(of_two[label].experiment, tmp_path, label)
    one = CellJob(of_two[label].experiment, tmp_path, "alignment", label, 0)
    assert_same(one.folder, of_two[label].folder, tiny_pipeline)


def assert_same(one: Path, two: Path, pipeline: Path) -> None:
    """They add up in another order: the weights differ by less than 1e-4 of how far they moved."""
    start, model = weights(pipeline / "transformer"), Path("checkpoint") / "model"
    moved = weights(one / model) - start
    assert moved.norm() > 5e-4 * start.norm(), "nothing was trained"
    assert (weights(two / model) - weights(one / model)).norm() < 1e-4 * moved.norm()

    of_one, of_both = CellRecord(one).events(), CellRecord(two).events()
    assert [event.kind for event in of_one] == [event.kind for event in of_both]
    assert isinstance(of_one[0], Cell) and isinstance(of_both[0], Cell)
    assert of_one[0].config_hash == of_both[0].config_hash
    for a, b in zip(of_one, of_both, strict=True):
        if isinstance(a, Milestone | End) and isinstance(b, Milestone | End):
            assert asdict(b.ledger) == pytest.approx(asdict(a.ledger), rel=1e-12)
        if isinstance(a, Milestone) and isinstance(b, Milestone):
            for name, score in a.scores.items():
                assert b.scores[name].n == score.n and b.scores[name].mean == pytest.approx(score.mean, abs=0.05)


def test_a_lost_process_fails_the_cell_and_the_next_run_goes_on(of_two: dict[str, CellJob], tmp_path: Path) -> None:
    """One of two is killed after its fourth update; the last checkpoint lies between two updates of one buffer."""
    whole = of_two["flowgrpo"]
    parts = CellJob(whole.experiment, tmp_path, "alignment", "flowgrpo", 0)
    assert together(2, lose_one, parts, "step", 4) == [1, -9]
    end = CellRecord(parts.folder).events()[-1]
    assert isinstance(end, End) and end.status == "failed"
    assert end.reason is not None and "process 0 of 2 has lost another one" in end.reason
    assert together(2, train_together, parts) == [0, 0]
    assert facts(parts.folder) == facts(whole.folder)
    assert facts(parts.folder / "checkpoint" / "model") == facts(whole.folder / "checkpoint" / "model")


@pytest.fixture(scope="module")
def sharded(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CellJob]:
    """A cell of each method, trained by two processes that share out the weights."""
    results, jobs = tmp_path_factory.mktemp("sharded"), {}
    for label, settings in SHARDED.items():
        e = experiment(tiny_pipeline, methods=[label], shard=True, **settings)
        jobs[label] = CellJob(e, results, "alignment", label, 0)
    assert together(2, train_in_turn, list(jobs.values())) == [0, 0]
    return jobs


@pytest.mark.parametrize("label", list(SHARDED))
def test_shared_out_weights_are_trained_as_whole_ones(
    sharded: dict[str, CellJob], tiny_pipeline: Path, tmp_path: Path, label: str
) -> None:
    e = experiment(tiny_pipeline, methods=[label], **SHARDED[label])
    run(e, tmp_path, label)
    assert_same(CellJob(e, tmp_path, "alignment", label, 0).folder, sharded[label].folder, tiny_pipeline)


def test_what_was_shared_out_is_a_plain_model_in_the_end(sharded: dict[str, CellJob], tiny_pipeline: Path) -> None:
    folder = sharded["sft"].folder / "checkpoint" / "model"
    of_base = load_file(next((tiny_pipeline / "transformer").glob("*.safetensors")))
    trained = SD3Transformer2DModel.from_pretrained(folder).state_dict()
    assert {name: t.shape for name, t in trained.items()} == {name: t.shape for name, t in of_base.items()}


def test_a_lost_process_and_what_it_shared_come_back(sharded: dict[str, CellJob], tmp_path: Path) -> None:
    """One of two is killed after its second update; the checkpoint of the first holds the weights whole."""
    whole = sharded["flowgrpo"]
    parts = CellJob(whole.experiment, tmp_path, "alignment", "flowgrpo", 0)
    assert together(2, lose_one, parts, "step", 2) == [1, -9]
    end = CellRecord(parts.folder).events()[-1]
    assert isinstance(end, End) and end.reason is not None and "process 0 of 2 has lost another one" in end.reason
    assert together(2, train_together, parts) == [0, 0]
    assert facts(parts.folder) == facts(whole.folder)
    assert facts(parts.folder / "checkpoint" / "model") == facts(whole.folder / "checkpoint" / "model")
