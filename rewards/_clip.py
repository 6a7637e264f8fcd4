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
CHUNK = 32  # pictures in one pass


class ClipReward(Reward):
    """A reward that stands on the CLIP of `checkpoint`."""

    checkpoint: ClassVar[PublishedCheckpoint]

    def __init__(self) -> None:
        self._judge: Judge | None = None
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

    def load(self) -> None:
        """Read the checkpoint.

        Raises:
            CheckpointMissing: it is not on this machine.
            DataError: it has other tensors than its network.
        """
        from rewards._clip_model import shared_clip

        self.fingerprint = weights_fingerprint(*self.files())
        self._judge = self.judge(shared_clip(located(self.checkpoint)))

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


def refuse_other_pictures(scorer: str, images: np.ndarray, prompts: Sequence[str]) -> None:
    """Raise DataError for what is no batch of pictures, each with its prompt."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(f"{scorer}: expected pictures uint8 (B, H, W, 3), got {images.dtype} {images.shape}")
    if len(prompts) != len(images):
        raise DataError(f"{scorer}: expected one prompt for each of {len(images)} pictures, got {len(prompts)}")
