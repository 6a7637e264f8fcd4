"""What four scorers do with a published CLIP: read it, show it pictures some at a time, mostly take a cosine."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import DataError, Reward
from rewards._weights import PublishedCheckpoint, located, weights_fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from rewards._clip_model import Clip

    # Scores (b,) float32 of pictures uint8 (b, H, W, 3) with their prompts
    Judge = Callable[[np.ndarray, Sequence[str]], Tensor]
    # The same of pictures float32 (b, 3, H, W) in [0, 1], with gradient
    GradientJudge = Callable[[Tensor, Sequence[str]], Tensor]
CHUNK = 32  # pictures in one pass


class ClipReward(Reward):
    """A reward that stands on the CLIP of `checkpoint`."""

    checkpoint: ClassVar[PublishedCheckpoint]
    differentiable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._judge: Judge | None = None
        self._gradient_judge: GradientJudge | None = None
        self.fingerprint = ""

    @classmethod
    def files(cls) -> list[Path]:
        """The files that scores depend on.

        Raises:
            CheckpointMissing: they are not on this machine.
        """
        folder = located(cls.checkpoint)
        return [folder / name for name in cls.checkpoint.files]

    @classmethod
    def require_checkpoint(cls) -> None:
        """Look for its files."""
        cls.files()

    @abc.abstractmethod
    def judge(self, clip: Clip) -> Judge:
        """How pictures are scored, once the CLIP is read."""

    @abc.abstractmethod
    def gradient_judge(self, clip: Clip) -> GradientJudge:
        """How they are scored with gradient."""

    def load(self) -> None:
        """Read the checkpoint.

        Raises:
            CheckpointMissing: it is not on this machine.
            DataError: it has other tensors than its network.
        """
        from rewards._clip_model import shared_clip

        self.fingerprint = weights_fingerprint(*self.files())
        clip = shared_clip(located(self.checkpoint))
        self._judge, self._gradient_judge = self.judge(clip), self.gradient_judge(clip)

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 of pictures uint8 (B, H, W, 3) of any size.

        Raises:
            DataError: pictures of another type, or not one prompt for each.
        """
        refuse_other_pictures(self.name, images, prompts)
        if self._judge is None:
            self.load()
        assert self._judge is not None
        parts = [slice(start, start + CHUNK) for start in range(0, len(images), CHUNK)]
        return np.concatenate([self._judge(images[part], prompts[part]).cpu().numpy() for part in parts])

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """The same of pictures float32 (B, 3, H, W) in [0, 1], with gradient; a resize rounds to no grey levels."""
        from torch import cat

        if self._gradient_judge is None:
            self.load()
        assert self._gradient_judge is not None
        parts = [slice(start, start + CHUNK) for start in range(0, len(images), CHUNK)]
        return cat([self._gradient_judge(images[part], prompts[part]) for part in parts])


class ClipAgreement(ClipReward):
    """How well picture and prompt agree, as the CLIP of `checkpoint` sees it: cosine times scale, in float32.

    A cosine that rounding has carried beyond 1 is set to 1. A prompt of more than 77 tokens is cut there, as the
    published code of all these scorers does.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def prepared(self, images: np.ndarray, size: int) -> Tensor:
        """What the image tower sees, float32 (B, 3, size, size), of pictures uint8 (B, H, W, 3)."""
        from rewards._clip_model import centre_crop

        return centre_crop(images, size)

    def prepared_with_gradient(self, images: Tensor, size: int) -> Tensor:
        """The same of pictures float32 (B, 3, H, W) in [0, 1]."""
        from rewards._clip_model import centre_crop_with_gradient

        return centre_crop_with_gradient(images, size)

    def scale(self, clip: Clip) -> float:
        """What the cosine is multiplied with."""
        return 1.0

    def judge(self, clip: Clip) -> Judge:
        """Cosine times scale."""
        scale = self.scale(clip)

        def agreement(images: np.ndarray, prompts: Sequence[str]) -> Tensor:
            pictures = clip.image(self.prepared(images, clip.size))
            return scale * (pictures * clip.text(prompts)).sum(1).clamp(-1, 1)

        return agreement

    def gradient_judge(self, clip: Clip) -> GradientJudge:
        """Cosine times scale."""
        scale = self.scale(clip)

        def agreement(images: Tensor, prompts: Sequence[str]) -> Tensor:
            pictures = clip.image_with_gradient(self.prepared_with_gradient(images, clip.size))
            return scale * (pictures * clip.text(prompts)).sum(1).clamp(-1, 1)

        return agreement


def refuse_other_pictures(scorer: str, images: np.ndarray, prompts: Sequence[str]) -> None:
    """Raise DataError for what is no batch of pictures, each with its prompt."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(f"{scorer}: expected pictures uint8 (B, H, W, 3), got {images.dtype} {images.shape}")
    if len(prompts) != len(images):
        raise DataError(f"{scorer}: expected one prompt for each of {len(images)} pictures, got {len(prompts)}")
