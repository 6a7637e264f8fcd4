"""Published scorers are timed on random weights in the format that they read, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from bench import registry
from bench.preflight.rehearsal.parts import PARTS
from bench.preflight.rehearsal.rewards import (
    _measure_in_fresh_process,
    _measure_random_weights,
    measure_reward,
    peak_gib,
)
from rewards._clip_model import empty_clip
from rewards._random_weights import REAL, SCORERS, SHRUNKEN, write_checkpoint
from rewards.clipscore import OPENAI_CLIP
from rewards.geneval import DETECTOR
from rewards.hpsv2 import HPSv2
from rewards.pickscore import PickScore

HERE = [name for name in SCORERS if name not in ("imagereward", "ocr")]  # the latter brings its own weights


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_random_weights_are_read_as_published_ones_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scorer refuses other tensors than its network's, by name."""
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    write_checkpoint(name, SHRUNKEN)
    found = measure_reward(registry.load_reward(name)(), "cpu", enough=0.0)
    assert found["pictures_per_second"] > 0 and found["batches"] == 1 and found["device_gib"] is None


def test_what_is_timed_is_of_real_size() -> None:
    """Millions of weights: 428 of ViT-L/14 and 986 of ViT-H/14, as OpenAI and LAION count; 69 of the detector."""
    clips = [empty_clip(CLIPConfig(**config)) for config in (REAL.vit_l, REAL.vit_h)]
    with torch.device("meta"):
        backbone = SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"], **REAL.swin)
        detector = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone, num_labels=80))
    millions = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (*clips, detector)]
    assert millions == pytest.approx([427.6, 986.1, 68.7], abs=0.1)
    gib = [OPENAI_CLIP.gib, PickScore.checkpoint.gib, DETECTOR.gib]  # what `bench plan` reckons with, in float32
    assert (
        gib == pytest.approx([4e6 * count / 2**30 for count in millions], abs=0.005) and HPSv2.checkpoint.gib == gib[1]
    )


def test_the_vocabulary_has_as_many_words_as_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    write_checkpoint("clipscore", SHRUNKEN)
    words = json.loads((OPENAI_CLIP.folder / "vocab.json").read_text())
    assert len(words) == 520 and words["<|endoftext|>"] == 519


@pytest.mark.slow
def test_a_scorer_is_measured_in_a_process_of_its_own() -> None:
    assert "rewards" in PARTS
    found = _measure_in_fresh_process("jpeg", "cpu")
    assert found["pictures_per_second"] > 1 and 0.05 < found["host_gib"] < 2, found


def test_the_memory_of_processes_that_a_scorer_keeps_counts() -> None:
    before = peak_gib()
    holder = "held = b'x' * (256 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert 0.25 < peak_gib() - before < 0.35
        process.communicate(b"\n")


def test_one_that_cannot_run_here_says_why() -> None:
    """No environment lies in the cache of the tests."""
    found = _measure_random_weights(registry.load_reward("imagereward"), "cpu", shrunken=True)
    assert "`python -m bench reward-env imagereward` builds it" in found["failed"]


def test_the_page_of_rewards_has_the_speeds_that_were_measured() -> None:
    found = json.loads((registry.ROOT / "results" / "cpu" / "rewards.json").read_text())["found"]
    lines = (registry.ROOT / "docs" / "how-to" / "rewards.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    shown = {row[0].strip("`"): row[-1] for row in rows}
    assert {name: shown[name] for name in found} == {
        name: f"{one['pictures_per_second']:.2g}" for name, one in found.items()
    }
