"""Proxy scorer of the embedded world: how well picture and prompt agree, by a small CLIP trained on the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import Reward

if TYPE_CHECKING:
    from torch import Tensor

    from bench.datasets.scenes.proxies import ProxyClip


class ScenesClip(Reward):
    """Cosine of the CLIP embeddings of picture and prompt, in [-1, 1], in float32.

    A cosine that rounding has carried beyond 1 is set to 1. Prompts are never truncated: a prompt that the text tower
    cannot read in full is refused.

    Source: CLIPScore, arXiv 2104.08718, section 3, without its factor 2.5 and without cutting at 0, as reported in
    Flow-GRPO, arXiv 2505.05470, and SOAR, arXiv 2604.12617.
    """

    name: ClassVar[str] = "scenes-clip"
    stands_for: ClassVar[str] = "scenes-geneval"
    version: ClassVar[str] = "1"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    source: ClassVar[str] = "arXiv 2104.08718"
    held: ClassVar[Mapping[str, float]] = {}
    differentiable: ClassVar[bool] = True

    def __init__(self, assets: Path | None = None) -> None:
        self._assets = assets
        self._clip: ProxyClip | None = None
        self.fingerprint = ""

    def load(self) -> None:
        """Read the CLIP of the assets.

        Raises:
            DataError: there is none, or it is not what `bench.datasets.scenes.proxies` describes.
        """
        from bench.datasets.scenes.proxies import ASSETS, CLIP_FOLDER, ProxyClip, proxy_fingerprint

        folder = (self._assets or ASSETS) / CLIP_FOLDER
        self.fingerprint = proxy_fingerprint(folder)
        self._clip = ProxyClip(folder)

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [-1, 1] of uint8 (B, 64, 64, 3).

        Raises:
            DataError: pictures of another size; a prompt too long, or with letters that the tokenizer does not know.
        """
        clip = self._loaded()
        return (clip.image(images) * clip.text(prompts)).sum(1).clamp(-1, 1).numpy()

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """The same of pictures float32 (B, 3, 64, 64) in [0, 1], with gradient."""
        clip = self._loaded()
        return (clip.image_with_gradient(images) * clip.text(prompts)).sum(1).clamp(-1, 1)

    def _loaded(self) -> ProxyClip:
        if self._clip is None:
            self.load()
        assert self._clip is not None
        return self._clip
