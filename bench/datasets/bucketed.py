"""The supervised data of a stage in aspect buckets: one data set for each size of picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from bench.api import DataError
from bench.datasets.dataset import Dataset


@dataclass(frozen=True)
class Bucketed:
    """As a `Dataset`, with latents of several `shapes` (C, h, w), one for each of the `parts`.

    Rows are counted through from the first part to the last. `selected_by` and `scored` are the same in all parts.
    """

    parts: tuple[Dataset, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.shapes):
            raise DataError(
                f"data in buckets: expected a shape for each bucket, one at least, got {len(self.shapes)} shapes for "
                f"{len(self.parts)} buckets"
            )

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> list[int]:
        """Pictures of each part."""
        return [len(part) for part in self.parts]

    @cached_property
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
        """Captions and metadata of these rows, which are of one part."""
        part, own = self._within(index)
        return part.rows(own)

    def moments(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and std (B, *S) float32 of these rows, which are of one part."""
        part, own = self._within(index)
        return part.moments(own)

    def _within(self, index: np.ndarray) -> tuple[Dataset, np.ndarray]:
        first = np.cumsum([0, *self.counts])
        numbers = set((np.searchsorted(first, index, side="right") - 1).tolist())
        if len(numbers) != 1:
            raise DataError(
                f"rows {index.tolist()}: expected those of one bucket, for a batch holds one size of picture"
            )
        number = numbers.pop()
        return self.parts[number], index - first[number]
