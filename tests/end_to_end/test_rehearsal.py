"""A rehearsal of the rehearsal: the same on a shrunken architecture, with random weights, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.cli.main import main
from bench.config.job import CellJob
from bench.config.load import load_settings
from bench.datasets.worlds import experiment_world
from bench.experiments.cell import run_cell
from bench.experiments.sample import load_checkpoint, sample_grid
from bench.results.records.writer import CellRecord

SHRUNKEN = {
    "model": "shrunken",
    "runtime.resolution": 64,
    "runtime.text_length": 48,
    "runtime.compile": False,
    "runtime.frozen_weights": "float32",
    "train.precision": "float32",
    "train.micro_batch": 4,
    "evaluation.drift_states": 0,
    "evaluation.diversity_prompts": 0,
    "evaluation.steps": 2,
    "device": "cpu",
}
OPTIONS = [part for name, value in SHRUNKEN.items() for part in (f"--{name}", str(value).lower())]


@pytest.mark.parametrize(("part", "methods"), [("lora", "sft,soar,flowgrpo"), ("full", "sft")])
def test_methods_are_measured(part: str, methods: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--train.batch_size", "4", "--soar.num_points", "1", "--task.candidates", "8", "--task.train_prompts", "4"]
    small += ["--flowgrpo.num_groups", "1", "--flowgrpo.sampling_steps", "3"] if "flowgrpo" in methods else []
    small = small if "soar" in methods else [*small[:2], *small[4:]]
    assert main(["rehearse", "--parts", part, "--methods", methods, *OPTIONS, *small, "--out", str(tmp_path)]) == 0
    about = json.loads((tmp_path / f"{part}.json").read_text())
    assert list(about["found"]) == sorted(methods.split(",")) and about["provenance"]["device"] == "cpu"
    for found in about["found"].values():
        assert found["updates"]["seconds"] > 0 and found["updates"]["utilisation"] > 0
        assert found["lora_saved"] == (part == "lora") and found["checkpoint"]["bytes"] > 0
    if part == "lora":  # with N = 1 SOAR adds the rollout's pass to an SFT step, and that step over again
        sft, soar = (about["found"][name]["updates"]["cost"] for name in ("sft", "soar"))
        assert 2 * sft < soar < 2.5 * sft
    assert "evaluation: seconds" in capsys.readouterr().out


def test_a_cell_runs_to_its_end_on_random_weights_and_is_sampled_as_it_was_trained(tmp_path: Path) -> None:
    experiment = load_settings(
        "rehearsal",
        {**SHRUNKEN, "methods": ["flowgrpo"], "budget": "2updates", "flowgrpo.num_groups": 1,
         "flowgrpo.sampling_steps": 3, "runtime.resolution": 80, "task.candidates": 8, "task.train_prompts": 4},
    )  # fmt: skip
    job = CellJob(experiment, tmp_path, "rehearsal", "flowgrpo", 0)
    run_cell(job, lambda event: None)
    record = CellRecord(job.folder)
    assert record.status() == "done"
    header = record.events()[0]
    assert header.config["runtime"]["text_length"] == 48 and header.provenance.device == "cpu"
    assert (job.folder / "checkpoint" / "lora" / "pytorch_lora_weights.safetensors").is_file()
    policy = load_checkpoint(experiment_world(experiment), job.folder)
    assert policy.latent_shape == (16, 10, 10) and policy.texts.length == 48

    pictures = []
    for settings in ({}, {"guidance": 4.5, "steps": 2}, {"guidance": 3.0, "steps": 2}):
        sample_grid(job.folder, tmp_path / "one.png", prompts=["a star"], samples=1, **settings)
        pictures.append(np.asarray(Image.open(tmp_path / "one.png")))
    assert pictures[0].shape == (80, 80, 3)
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_parts_and_chains_that_cannot_be_rehearsed_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "--parts", "lroa", *OPTIONS]) == 2
    assert "no part 'lroa'; did you mean 'lora'?" in capsys.readouterr().err
    assert main(["rehearse", "--methods", "sft+soar", *OPTIONS]) == 2
    assert "a rehearsal takes single methods, but 'sft+soar' is a chain" in capsys.readouterr().err
