"""Methods on own samples and on the reward's gradient, trained by two processes, find what one finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.config.job import CellJob
from tests.invariance.test_processes import assert_same
from tests.support.cells import experiment, run
from tests.support.rank_processes import together, train_in_turn

# Odd numbers, so that shares are unequal; one rollout phase, for a pixel that rounds the other way changes the next
GROUPS: dict[str, Any] = {"num_groups": 3, "num_generations": 3, "sampling_steps": 2, "updates": 2, "levels": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "diffusionnft": ("methods.diffusionnft:DiffusionNFT", GROUPS),
    "flowdpo": ("methods.flowdpo:FlowDPO", GROUPS),
}


@pytest.mark.slow
def test_two_processes_equal_one(tiny_pipeline: Path, tmp_path: Path) -> None:
    jobs = []
    for label, (source, settings) in CASES.items():
        named = {f"{label}.{name}": value for name, value in settings.items()}
        e = experiment(
            tiny_pipeline, methods=[source], budget="2updates", **{"train.micro_batch": 2, "train.learning_rate": 1e-3},
            **named,
        )  # fmt: skip
        run(e, tmp_path / "one", label)
        jobs.append(CellJob(e, tmp_path / "two", "alignment", label, 0))
    assert together(2, train_in_turn, jobs) == [0, 0]
    for job in jobs:
        one = CellJob(job.experiment, tmp_path / "one", "alignment", job.label, 0)
        assert_same(one.folder, job.folder, tiny_pipeline)
