"""A world without assets, for rehearsals: flat pictures of any size, whose captions name their brightness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench import rng
from bench.api import ConfigError, Prompt, Reward
from bench.datasets.splits import SPLITS
from bench.datasets.world import Candidates

if TYPE_CHECKING:
    from torch import Tensor

_GRID = 4  # an embedding is the mean colours of 4 x 4 fields


class RehearsalWorld:
    """Smooth gradients between random colours. What is learned from them is of no interest; that it runs is."""

    name = "rehearsal"
    version = "1"
    categories: tuple[str, ...] = ("gradient",)

    def __init__(self, model: str | None, resolution: int | None) -> None:
        if model is None or resolution is None:
            raise ConfigError(
                "world 'rehearsal': expected a model and a runtime.resolution, for it has none of its own"
            )
        self.model = Path(model)
        self._side = resolution

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """`count` prompts, different in every split."""
        if split not in SPLITS:
            raise ConfigError(f"prompt split {split!r}: expected one of {', '.join(SPLITS)}")
        return [Prompt(i, f"gradient {i} for the {split} split", {"tag": self.categories[0]}) for i in range(count)]

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` pictures, each a gradient between two colours from left to right."""
        across = np.linspace(0, 1, self._side, dtype=np.float32)[None, :, None]
        images = np.empty((count, self._side, self._side, 3), np.uint8)
        for i in range(count):
            left, right = rng.generator(0, "rehearsal", i).uniform(0, 255, (2, 1, 1, 3))
            images[i] = left + across * (right - left)
        return Candidates(images, self.prompts("train", categories, count))

    def pairs(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` pairs of such pictures, not ranked."""
        return Candidates(self.candidates(categories, 2 * count).images, 2 * self.prompts("train", categories, count))

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Unit-length embeddings (B, 48) float32: mean colours of fields, which need no network."""
        fields = [np.array_split(rows, _GRID, axis=2) for rows in np.array_split(images, _GRID, axis=1)]
        means = [field.mean((1, 2)) + 1 for row in fields for field in row]
        found = np.concatenate(means, axis=1).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


class Brightness(Reward):
    """Mean brightness of a picture."""

    name: ClassVar[str] = "brightness"
    gold: ClassVar[bool] = True
    held: ClassVar[Mapping[str, float]] = {}
    differentiable: ClassVar[bool] = True

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 1] of uint8 (B, H, W, 3)."""
        return (images.mean((1, 2, 3)) / 255).astype(np.float32)

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """The same of float32 (B, 3, H, W) in [0, 1], with gradient."""
        return images.mean((1, 2, 3))
