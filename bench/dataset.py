"""The supervised data of a stage: latent moments with captions, encoded once and kept in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bench.api import DataError


@dataclass(frozen=True)
class Dataset:
    """Curated pictures as the VAE's posterior: mean and std (N, *S) float32, with captions and metadata.

    Moments are kept rather than one draw, so that sampling the VAE stays random. `selected_by` names the scorer that
    chose the pictures, `scored` how many candidates it looked at.
    """

    mean: Tensor
    std: Tensor
    prompts: Sequence[str]
    metadata: Sequence[Mapping[str, Any]]
    selected_by: str
    scored: int

    def __post_init__(self) -> None:
        sizes = {len(self.mean), len(self.std), len(self.prompts), len(self.metadata)}
        if len(sizes) != 1 or 0 in sizes:
            raise DataError(f"dataset: expected as many latents as captions, one at least, got sizes {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The pictures by size: here all have one."""
        return (self,)

    def rows(self, index: np.ndarray) -> tuple[list[str], list[Mapping[str, Any]]]:
        """Captions and metadata of these rows."""
        return [self.prompts[i] for i in index], [self.metadata[i] for i in index]

    def moments(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and std (B, *S) float32 of these rows."""
        return self.mean[index], self.std[index]


@dataclass(frozen=True)
class Bucketed:
    """The same in aspect buckets: one data set for each size, whose rows are counted through from the first to the
    last; `selected_by` and `scored` are of all."""

    parts: tuple[Dataset, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise DataError("data set in buckets: expected at least one bucket, got none")

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def prompts(self) -> Sequence[str]:
        """Captions of all rows."""
        return [prompt for part in self.parts for prompt in part.prompts]

    @property
    def selected_by(self) -> str:
        """The scorer that chose the pictures."""
        return self.parts[0].selected_by

    @property
    def scored(self) -> int:
        """How many candidates it looked at."""
        return self.parts[0].scored

    def rows(self, index: np.ndarray) -> tuple[list[str], list[Mapping[str, Any]]]:
        """Captions and metadata of these rows, of one bucket."""
        part, own = self._within(index)
        return part.rows(own)

    def moments(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and std (B, *S) float32 of these rows, of one bucket."""
        part, own = self._within(index)
        return part.moments(own)

    def _within(self, index: np.ndarray) -> tuple[Dataset, np.ndarray]:
        """The bucket that rows belong to, and their numbers there."""
        first = np.cumsum([0, *map(len, self.parts)])
        bucket = set(np.searchsorted(first, index, side="right") - 1)
        if len(bucket) != 1:
            raise DataError(
                f"rows {index.tolist()}: expected those of one bucket, as a batch holds one size of picture"
            )
        (number,) = bucket
        return self.parts[number], index - first[number]
