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

    def rows(self, index: np.ndarray) -> tuple[list[str], list[Mapping[str, Any]]]:
        """Captions and metadata of these rows."""
        return [self.prompts[i] for i in index], [self.metadata[i] for i in index]
