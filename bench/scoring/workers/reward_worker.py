"""The worker file of any scorer of this environment: what `worker_main` calls in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import registry
from bench.api import ConfigError, Reward
from bench.plugin_errors import plugin_errors
from bench.scoring.server.journal import Journal
from bench.scoring.workers.messages import answer_message, pack_scores

_reward: Reward | None = None
_journal: Journal | None = None


def load(spec: str, device: str, journal: str | None) -> dict[str, Any]:
    """Load the reward of this name, module or file; returns its version and the hash of its weights.

    `device` is what the process was started for. `journal` is a file that keeps answers, by the id of their request.
    """

    def work() -> dict[str, Any]:
        global _reward, _journal
        _require(device, spec)
        cls = registry.load_reward(spec)
        if journal is not None:
            _journal = Journal(Path(journal))
        with plugin_errors(f"reward {cls.name!r} in load()", cls):
            _reward = cls()
            _reward.load()
        return {"version": _reward.version, "fingerprint": str(getattr(_reward, "fingerprint", ""))}

    return answer_message(work)


def score(
    images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]],
    request: tuple[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores as they are, packed, of pictures uint8 (B, H, W, 3).

    `request` is id and digest; what the journal holds under it is not scored again, and what is not yet there is kept
    before anybody hears of it.
    """

    def work() -> Any:
        assert _reward is not None
        key = request
        kept = _journal.answer(*key) if _journal and key else None
        if kept is not None:
            return kept
        with plugin_errors(f"reward {_reward.name!r} on {len(images)} pictures", type(_reward)):
            scores = pack_scores(_reward(images, list(prompts), list(metadata)))
        if _journal and key:
            _journal.keep(*key, scores)
        return scores

    return answer_message(work)


def measure(images: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """FLOPs of the one picture uint8 (1, H, W, 3), counted here."""

    def work() -> float:
        assert _reward is not None
        if "torch" not in sys.modules:  # without it there is no network to count, and to import it takes seconds
            return _reward.measure_worker_flops(images[0], prompt, metadata)
        from bench.scoring.scorer import Scorer

        scorer = Scorer(_reward)
        scorer.measure(images[0], prompt, metadata)
        return scorer.flops

    return answer_message(work)


def _require(device: str, spec: str) -> None:
    """Refuse a scorer on the CPU that was meant for a GPU."""
    if not device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"scorer {spec!r}: expected the CUDA device {device}, but torch {torch.__version__} sees none there: "
            "choose another device, or cpu"
        )
