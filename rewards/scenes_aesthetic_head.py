"""Proxy scorer of the embedded world: how good a picture looks, by a head on the CLIP's image embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import Reward

if TYPE_CHECKING:
    from torch import Tensor

    from bench.datasets.scenes.proxies import AestheticHead, ProxyClip


class ScenesAestheticHead(Reward):
    """A small perceptron on the unit CLIP embedding of the picture, trained on the gold score: 0 (worst) to 10.

    Prompts play no part.

    Source: LAION's improved-aesthetic-predictor; see `bench.datasets.scenes.proxies.AestheticHead` for the deviations.
    """

    name: ClassVar[str] = "scenes-aesthetic-head"
    stands_for: ClassVar[str] = "scenes-aesthetic"
    version: ClassVar[str] = "1"
    range: ClassVar[tuple[float, float]] = (0.0, 10.0)
    source: ClassVar[str] = "github.com/christophschuhmann/improved-aesthetic-predictor"
    held: ClassVar[Mapping[str, float]] = {}
    reads_prompts: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def __init__(self, assets: Path | None = None) -> None:
        self._assets = assets
        self._networks: tuple[ProxyClip, AestheticHead] | None = None
        self.fingerprint = ""

    def load(self) -> None:
        """Read the CLIP and the head of the assets.

        Raises:
            DataError: one is missing, or the head was made for embeddings of another size.
        """
        from bench.api import DataError
        from bench.datasets.scenes.proxies import (
            AESTHETIC_FOLDER,
            ASSETS,
            CLIP_FOLDER,
            AestheticHead,
            ProxyClip,
            proxy_fingerprint,
        )

        assets = self._assets or ASSETS
        self.fingerprint = proxy_fingerprint(assets / CLIP_FOLDER, assets / AESTHETIC_FOLDER)
        clip, head = ProxyClip(assets / CLIP_FOLDER), AestheticHead.load(assets / AESTHETIC_FOLDER)
        if clip.model.config.projection_dim != head.embedding_dim:
            raise DataError(
                f"{assets}: the aesthetic head reads embeddings of {head.embedding_dim} numbers, but the CLIP gives "
                f"{clip.model.config.projection_dim}"
            )
        self._networks = clip, head

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 10] of uint8 (B, 64, 64, 3).

        Raises:
            DataError: pictures of another size.
        """
        clip, head = self._loaded()
        scores: np.ndarray = head(clip.image(images)).numpy()
        return scores

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """The same of pictures float32 (B, 3, 64, 64) in [0, 1], with gradient."""
        clip, head = self._loaded()
        scores: Tensor = head(clip.image_with_gradient(images))
        return scores

    def _loaded(self) -> tuple[ProxyClip, AestheticHead]:
        if self._networks is None:
            self.load()
        assert self._networks is not None
        return self._networks
