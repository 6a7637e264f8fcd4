"""The worker file of any scorer of this environment: what `worker_main` calls in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench import registry
from bench.api import ConfigError, Reward
from bench.plugin_code import code_hash
from bench.plugin_errors import plugin_errors
from bench.scoring.workers.messages import encode_result, encode_scores

_reward: Reward | None = None


def load(spec: str, device: str) -> dict[str, Any]:
    """The message of {"version", "fingerprint", "code"}, once the reward of this name, module or file is loaded.

    `device` is what the process was started for.
    """

    def work() -> dict[str, Any]:
        global _reward
        _require_device(device, spec)
        cls = registry.load_reward(spec)
        with plugin_errors(f"reward {cls.name!r} in load()", cls):
            _reward = cls()
            _reward.load()
        print_ = str(getattr(_reward, "fingerprint", ""))
        return {"version": _reward.version, "fingerprint": print_, "code": code_hash(cls)}

    return encode_result(work)


def score(images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The message of the encoded scores of pictures uint8 (B, H, W, 3), as the reward gives them."""

    def work() -> dict[str, Any]:
        assert _reward is not None
        with plugin_errors(f"reward {_reward.name!r} on {len(images)} pictures", type(_reward)):
            return encode_scores(_reward(images, list(prompts), list(metadata)))

    return encode_result(work)


def measure(images: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The message of the FLOPs of scoring one picture uint8 (1, H, W, 3), counted here."""

    def work() -> float:
        assert _reward is not None
        if "torch" not in sys.modules:  # without it there is no network to count, and to import it takes seconds
            return _reward.measure_worker_flops(images[0], prompt, metadata)
        from bench.scoring.scorer import Scorer

        scorer = Scorer(_reward)
        scorer.measure(images[0], prompt, metadata)
        return scorer.flops

    return encode_result(work)


def _require_device(device: str, spec: str) -> None:
    """Refuse a scorer on the CPU that was meant for a GPU."""
    if not device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"scorer {spec!r}: expected the CUDA device {device}, but torch {torch.__version__} sees none there: "
            "choose another device, or cpu"
        )
