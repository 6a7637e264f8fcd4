"""Scorer: how well people like a picture for its prompt, by ImageReward v1.0 (BLIP with a head, in a process apart)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import BenchError, ConfigError, DataError, Reward
from bench.scoring.workers.pinned_environment import PinnedEnvironment
from bench.scoring.workers.worker_process import WorkerLimits, WorkerProcess
from rewards._clip import refuse_other_pictures
from rewards._weights import PublishedCheckpoint, located, refuse_other, weights_fingerprint

__all__ = ["CHECKPOINT", "VOCABULARY", "ImageReward"]

CHECKPOINT = PublishedCheckpoint(
    home="zai-org/ImageReward",
    files=("ImageReward.safetensors", "med_config.json"),
    licence="Apache-2.0",
    get="`hf download zai-org/ImageReward ImageReward.pt med_config.json --local-dir FOLDER`, then "
    "`python -m rewards.convert imagereward FOLDER/ImageReward.pt`",
    gib=1.67,  # the published file has 1.79 GB
)
VOCABULARY = PublishedCheckpoint(
    home="google-bert/bert-base-uncased",
    files=("vocab.txt",),
    licence="Apache-2.0",
    get="`hf download google-bert/bert-base-uncased vocab.txt`",
)
PINS = Path(__file__).with_name("environments") / "imagereward"
_CHUNK = 8  # pictures in one call, which has to end in time; the package looks at them one by one
# Buffers (0, 1, 2, ...), which the network makes itself
_COUNTERS = ("blip.text_encoder.embeddings.position_ids",)


class ImageReward(Reward):
    """ImageReward v1.0: mean 0 and deviation 1 over the pictures it was trained on; most get -2.5 to 2. No bounds.

    The image-reward package 1.5, as published, runs in a process and an environment of its own, which
    `python -m bench reward-env imagereward` builds. A prompt of more than 35 tokens is cut there, as the package does.
    It runs on the CPU with one thread; `$BENCH_IMAGEREWARD_DEVICE` (`cpu`, `cuda`, `cuda:N`) and
    `$BENCH_IMAGEREWARD_THREADS` say otherwise.

    Source: arXiv 2304.05977, section 3, and its package; SOAR, arXiv 2604.12617, reports it (0.85 for SD3.5-Medium on
    DrawBench).
    """

    name: ClassVar[str] = "imagereward"
    random_weights = "rewards._random_weights:write_random_weights"
    version: ClassVar[str] = "1"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    source: ClassVar[str] = "arXiv 2304.05977; image-reward 1.5, zai-org/ImageReward"
    held = CHECKPOINT.held
    environment: ClassVar[Path | None] = PINS

    def __init__(self) -> None:
        self._process: WorkerProcess | None = None
        self.fingerprint = ""
        self.worker_flops = 0.0

    @classmethod
    def require_checkpoint(cls) -> None:
        """Look for the environment, the checkpoint and the vocabulary."""
        PinnedEnvironment(cls.name, PINS).python()
        for checkpoint in (CHECKPOINT, VOCABULARY):
            located(checkpoint)

    def load(self) -> None:
        """Start the process and have it read the checkpoint.

        Raises:
            CheckpointMissing: the environment, the checkpoint or the vocabulary is not on this machine.
            DataError: the checkpoint has other tensors than its network.
            PluginError: the process fails.
        """
        environment = PinnedEnvironment(self.name, PINS)
        python = environment.python()
        weights, configuration = (located(CHECKPOINT) / name for name in CHECKPOINT.files)
        vocabulary = located(VOCABULARY)
        found = _stored(weights)
        self.fingerprint = weights_fingerprint(weights, configuration, vocabulary / VOCABULARY.files[0])
        process = WorkerProcess(self.name, python, environment.worker, WorkerLimits(threads=_threads()))
        expected = process.call(
            "build", configuration=str(configuration), vocabulary=str(vocabulary), threads=_threads(),
            device=os.environ.get("BENCH_IMAGEREWARD_DEVICE") or "cpu",
        )  # fmt: skip
        refuse_other(found, {n: tuple(s) for n, s in expected.items() if n not in _COUNTERS}, str(weights))
        self.worker_flops = float(process.load(weights=str(weights)))
        self._process = process

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 of pictures uint8 (B, H, W, 3) of any size.

        Raises:
            DataError: pictures of another type, or not one prompt for each.
            PluginError: the process fails.
        """
        refuse_other_pictures(self.name, images, prompts)
        if self._process is None:
            self.load()
        assert self._process is not None
        parts = [slice(start, start + _CHUNK) for start in range(0, len(images), _CHUNK)]
        try:
            return np.concatenate([self._process.scores(images[part], prompts[part]) for part in parts])
        except BenchError:
            self._process = None  # the next call starts another one
            raise


def _stored(weights: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file, but for those that the network makes itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(
            f"{weights}: expected a safetensors file, got something else ({error}): get it again"
        ) from error
    return {name: shape for name, shape in shapes.items() if name not in _COUNTERS}


def _threads() -> int:
    given = os.environ.get("BENCH_IMAGEREWARD_THREADS") or "1"
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"BENCH_IMAGEREWARD_THREADS: expected a number of threads from 1 on, got {given!r}")
    return int(given)
