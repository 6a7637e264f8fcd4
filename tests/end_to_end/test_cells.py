"""Whole cells on the tiny world: the same again, interrupted, chained, adapted, failed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from bench.api import BenchError
from bench.experiments import cell as runner
from bench.results.records.writer import CellRecord
from tests.support.cells import experiment, facts, run


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every update."""
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)


class Interrupted(BaseException):
    """Stands for a signal: nothing in the harness catches it."""


def interrupt_after(monkeypatch, updates: int) -> None:
    original = runner._Cell._judge_or_save

    def after(self, *args):
        original(self, *args)
        if self.log.update == updates:
            raise Interrupted

    monkeypatch.setattr(runner._Cell, "_judge_or_save", after)


@pytest.mark.parametrize("label", ["sft", "flowgrpo", "soar+flowgrpo"])
def test_the_same_cell_gives_the_same_bytes_even_interrupted(tiny_pipeline, tmp_path, monkeypatch, often, label):
    e = experiment(tiny_pipeline, methods=[label], **{"train.ema_half_life": 0.2, "train.caption_dropout": 0.3})
    task = e.tasks[0].name
    run(e, tmp_path / "whole", label)
    whole = facts(tmp_path / "whole" / e.name / task / label / "seed0")
    last = CellRecord(tmp_path / "whole" / e.name / task / label / "seed0").events()[-1].ledger.updates
    stops = sorted({1, last // 2, last - 1} - {0})
    for stop in stops:
        with monkeypatch.context() as patch:
            interrupt_after(patch, stop)
            with pytest.raises(Interrupted):
                run(e, tmp_path / "parts", label)
    run(e, tmp_path / "parts", label)
    parts = facts(tmp_path / "parts" / e.name / task / label / "seed0")
    assert whole.keys() == parts.keys()
    for name in whole:
        assert whole[name] == parts[name], name


def test_another_seed_gives_other_numbers(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft"], seeds=2)
    losses = []
    for seed in (0, 1):
        run(e, tmp_path, "sft", seed)
        events = CellRecord(tmp_path / e.name / e.tasks[0].name / "sft" / f"seed{seed}").events()
        losses.append([event.metrics["base"] for event in events if event.kind == "step"])
    assert len(losses[0]) == len(losses[1]) > 5
    assert not np.isclose(losses[0], losses[1]).any()


def test_a_finished_cell_is_not_run_again(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft"])
    assert run(e, tmp_path, "sft")
    assert run(e, tmp_path, "sft") == []


def test_lora_trains_only_adapters_and_merges(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft"], **{"train.adaptation": "lora", "train.lora_rank": 2})
    run(e, tmp_path, "sft")
    folder = tmp_path / e.name / e.tasks[0].name / "sft" / "seed0"
    from diffusers import SD3Transformer2DModel

    trained = SD3Transformer2DModel.from_pretrained(folder / "checkpoint" / "model").state_dict()
    base = SD3Transformer2DModel.from_pretrained(tiny_pipeline / "transformer").state_dict()
    assert trained.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    assert changed and all("attn" in name for name in changed)


def test_base_is_judged_on_the_same_noise_as_an_untrained_method(tiny_pipeline, tmp_path):
    """A learning rate of nearly nothing leaves the base's pictures."""
    e = experiment(tiny_pipeline, methods=["sft"], **{"train.learning_rate": 1e-30, "train.weight_decay": 0.0})
    run(e, tmp_path, "base")
    run(e, tmp_path, "sft")
    folder = tmp_path / e.name / e.tasks[0].name
    pictures = [(folder / label / "seed0" / "pictures.png").read_bytes() for label in ("base", "sft")]
    assert pictures[0] == pictures[1]
    milestone = [ev for ev in CellRecord(folder / "sft" / "seed0").events() if ev.kind == "milestone"][-1]
    assert milestone.drift["velocity"] == pytest.approx(0, abs=1e-12)
    assert milestone.drift["norm_ratio"] == pytest.approx(1, abs=1e-6)
    assert milestone.drift["path_kl"] == pytest.approx(0, abs=1e-9)


def test_training_moves_the_model_and_the_drift_says_so(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["sft"], **{"train.learning_rate": 1e-2})
    run(e, tmp_path, "sft")
    folder = tmp_path / e.name / e.tasks[0].name / "sft" / "seed0"
    events = CellRecord(folder).events()
    drift = [ev.drift for ev in events if ev.kind == "milestone"]
    assert drift[-1]["velocity"] > 1e-3 and drift[-1]["path_kl"] > 1e-3
    losses = [ev.metrics["base"] for ev in events if ev.kind == "step"]
    assert np.mean(losses[-3:]) < losses[0]


def test_a_failed_cell_is_a_record_with_its_reason(tiny_pipeline, tmp_path):
    e = experiment(tiny_pipeline, methods=["flowgrpo"], budget="20")
    with pytest.raises(BenchError, match="too small for one update"):
        run(e, tmp_path, "flowgrpo")
    record = CellRecord(tmp_path / e.name / e.tasks[0].name / "flowgrpo" / "seed0")
    assert record.status() == "failed"
    assert "too small for one update" in record.events()[-1].reason


def test_a_damaged_checkpoint_is_passed_over_and_named(tiny_pipeline, tmp_path, monkeypatch, often):
    e = experiment(tiny_pipeline, methods=["sft"])
    run(e, tmp_path / "whole", "sft")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(Interrupted):
            run(e, tmp_path / "parts", "sft")
    cell = tmp_path / "parts" / e.name / e.tasks[0].name / "sft" / "seed0"
    newest = sorted((cell / "checkpoint").glob("*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    events = run(e, tmp_path / "parts", "sft")
    assert any("damaged" in (ev.get("message") or "") for ev in events)
    assert facts(cell) == facts(tmp_path / "whole" / e.name / e.tasks[0].name / "sft" / "seed0")
    shutil.rmtree(tmp_path / "parts")


SOMETIMES = '''
import numpy as np
from bench.api import Reward

class Sometimes(Reward):
    """Brightness, but the same for all pictures of every second prompt, by its length."""
    name = "sometimes"

    def __call__(self, images, prompts, metadata):
        return [float(image.mean()) / 255 if len(p) % 2 else 0.5 for image, p in zip(images, prompts)]
'''


def test_steps_without_a_gradient_are_counted_beside_the_updates(tiny_pipeline, tmp_path):
    (tmp_path / "sometimes.py").write_text(SOMETIMES)
    group = {"flowgrpo.num_groups": 1, "flowgrpo.num_generations": 2, "flowgrpo.sampling_steps": 3}
    reward = {"task.reward": str(tmp_path / "sometimes.py")}
    e = experiment(tiny_pipeline, methods=["flowgrpo"], budget="4updates", **group, **reward)
    steps = [event for event in run(e, tmp_path, "flowgrpo") if event["event"] == "step"]
    ledger = CellRecord(tmp_path / e.name / "alignment" / "flowgrpo" / "seed0").events()[-1].ledger
    assert ledger.updates == 4 and ledger.skipped_updates == len(steps) - 4 > 0


def test_log_probabilities_in_bfloat16_are_cautioned_against_once(tiny_pipeline, tmp_path):
    small = {
        "flowgrpo.num_groups": 1,
        "flowgrpo.num_generations": 2,
        "flowgrpo.sampling_steps": 3,
        "budget": "1updates",
    }
    e = experiment(tiny_pipeline, methods=["sft", "flowgrpo"], **small, **{"train.precision": "bfloat16"})
    notes = {
        label: [event["message"] for event in run(e, tmp_path, label) if event["event"] == "note"]
        for label in ("sft", "flowgrpo")
    }
    assert notes["sft"] == [] and len(notes["flowgrpo"]) == 1
    assert "train.precision is bfloat16: at guidance 3 rounding adds about 6e-5 to a KL" in notes["flowgrpo"][0]
