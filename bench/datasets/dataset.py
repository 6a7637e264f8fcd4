"""The supervised data of a stage: latent moments with captions, in memory or read from the cache when drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bench.api import DataError


@dataclass(frozen=True)
class Dataset:
    """Curated pictures as the VAE's posterior, with captions and metadata.

    `moments` gives mean and std (n, *S) float32 of some rows: moments rather than one draw, so that sampling the VAE
    stays random. `selected_by` names the scorer that chose the pictures, `scored` how many candidates it looked at.
    """

    moments: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    prompts: Sequence[str]
    metadata: Sequence[Mapping[str, Any]]
    selected_by: str
    scored: int

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.metadata) or not self.prompts:
            raise DataError(
                f"dataset: expected metadata for every caption, one at least, got {len(self.prompts)} captions and "
                f"{len(self.metadata)} of metadata"
            )

    @classmethod
    def in_memory(
        cls, mean: Tensor, std: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Dataset:
        """Unselected data whose moments (N, *S) are at hand.

        Raises:
            DataError: there are not as many moments as captions.
        """
        sizes = {len(mean), len(std), len(prompts)}
        if len(sizes) != 1:
            raise DataError(f"dataset: expected as many latents as captions, got sizes {sorted(sizes)}")
        return cls(lambda rows: (mean[rows], std[rows]), prompts, metadata, "nothing", 0)

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, index: np.ndarray) -> tuple[list[str], list[Mapping[str, Any]]]:
        """Captions and metadata of these rows."""
        return [self.prompts[i] for i in index], [self.metadata[i] for i in index]
