"""my_plugin: how saturated the colours of a picture are.

It works as it stands: change `__call__` until it is your reward. Comments say what the harness expects; delete them.
The same scorer serves as training reward, as filter of the supervised data, and as a judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bench.api import Reward  # the contract; a plugin imports nothing else of the harness

__all__ = ["MyPlugin"]


class MyPlugin(Reward):
    """Saturation (max - min) / max over the channels of a pixel, mean over pixels: 0 is grey, 1 is pure colour.

    Source: HSV saturation, Smith 1978, "Color gamut transform pairs", SIGGRAPH.
    """

    name: ClassVar[str] = "my_plugin"  # in tables and options
    version: ClassVar[str] = "1"  # raise it with every change that can change a score
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)  # holds every score; one outside stops the run
    higher_is_better: ClassVar[bool] = True
    gold: ClassVar[bool] = True  # computed exactly from the picture; False for a learned scorer
    source: ClassVar[str] = "Smith 1978"
    reads_prompts: ClassVar[bool] = False  # True, the default, where the score depends on the prompt

    # Heavy imports and weights go into `load(self)`, called once before the first score.
    # `applies(cls, metadata)` says for which prompts the score has a meaning; by default for all.

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 1] of pictures uint8 (B, H, W, 3)."""
        # A picture's score may depend on that picture, its prompt and its metadata alone, to the last bit: one
        # contiguous row a picture makes numpy sum each in the same order, whatever the batch.
        pixels = images.reshape(len(images), -1, 3).astype(np.float64)
        highest = pixels.max(2)
        saturation = (highest - pixels.min(2)) / np.maximum(highest, 1)
        return saturation.mean(1).astype(np.float32)
