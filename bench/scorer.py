"""A reward with its checks and its measured cost: what stands between a plugin's scores and the harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.api import NonFiniteError, PluginError, Reward


class Scorer:
    """Calls a reward, refuses what its declaration does not allow, and knows the FLOPs of one picture."""

    def __init__(self, reward: Reward, flops: float = 0.0) -> None:
        self.reward = reward
        self.flops = flops

    @property
    def name(self) -> str:
        """The reward's registered name."""
        return self.reward.name

    @property
    def fingerprint(self) -> str:
        """What the scores depend on besides the version: the reward's own hash of its weights, where it has some."""
        return str(getattr(self.reward, "fingerprint", ""))

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Checked scores (B,) float32 as the reward gives them.

        Raises:
            PluginError: wrong shape, NaN, or a value outside the declared range.
        """
        scores = np.asarray(self.reward(images, list(prompts), list(metadata)))
        low, high = self.reward.range
        if scores.shape != (len(images),):
            raise PluginError(
                f"reward {self.name!r}: expected {len(images)} scores for {len(images)} pictures, "
                f"got an array of shape {scores.shape}"
            )
        if not np.isfinite(scores).all():
            raise NonFiniteError(
                f"reward {self.name!r}: {int((~np.isfinite(scores)).sum())} scores are NaN or infinite"
            )
        if scores.min() < low or scores.max() > high:
            raise PluginError(
                f"reward {self.name!r} declares the range {low} to {high} but gave {scores.min()} to {scores.max()}"
            )
        return scores.astype(np.float32)

    def training_scores(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Scores turned so that higher is better."""
        scores = self(images, prompts, metadata)
        return scores if self.reward.higher_is_better else -scores

    def where_it_applies(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Scores (B,) float32, NaN for the prompts that the reward cannot judge."""
        scores = np.full(len(images), np.nan, np.float32)
        chosen = [i for i, m in enumerate(metadata) if self.reward.applies(m)]
        if chosen:
            scores[chosen] = self(images[chosen], [prompts[i] for i in chosen], [metadata[i] for i in chosen])
        return scores

    def measure(self, image: np.ndarray, prompt: str, metadata: Mapping[str, object]) -> None:
        """Count the FLOPs of scoring one picture uint8 (H, W, 3); a scorer without a network has none."""
        # The fused attention kernels of the CPU are not in torch's table of FLOPs; the plain one is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self(image[None], [prompt], [metadata])
        self.flops = float(counter.get_total_flops())
