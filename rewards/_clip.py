"""What three scorers do with a published CLIP: the cosine of the embeddings of picture and prompt, times a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import DataError, Reward
from rewards._weights import Published, fingerprint, located

if TYPE_CHECKING:
    from torch import Tensor

    from rewards._clip_model import Clip

CLIP_FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
CHUNK = 32  # pictures in one pass


class ClipAgreement(Reward):
    """How well picture and prompt agree, as the CLIP of `checkpoint` sees it: cosine times scale, in float32.

    A cosine that rounding has carried beyond 1 is set to 1. A prompt of more than 77 tokens is cut there, as the
    published code of all these scorers does.
    """

    checkpoint: ClassVar[Published]
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __init__(self) -> None:
        self._clip: Clip | None = None
        self.fingerprint = ""

    def load(self) -> None:
        """Read the checkpoint.

        Raises:
            CheckpointMissing: it is not on this machine.
            DataError: it has other tensors than this network.
        """
        from rewards._clip_model import Clip

        folder = located(self.checkpoint)
        self.fingerprint = fingerprint(*(folder / name for name in self.checkpoint.files))
        self._clip = Clip(folder)

    def prepared(self, images: np.ndarray, size: int) -> Tensor:
        """What the image tower sees, float32 (B, 3, size, size), of pictures uint8 (B, H, W, 3)."""
        from rewards._clip_model import centre_crop

        return centre_crop(images, size)

    def scale(self, clip: Clip) -> float:
        """What the cosine is multiplied with."""
        return 1.0

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 of pictures uint8 (B, H, W, 3) of any size.

        Raises:
            DataError: pictures of another type, or not one prompt for each.
        """
        refuse_other_pictures(self.name, images, prompts)
        if self._clip is None:
            self.load()
        assert self._clip is not None
        clip, scores = self._clip, []
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            pictures = clip.image(self.prepared(images[part], clip.size))
            scores.append((pictures * clip.text(prompts[part])).sum(1).clamp(-1, 1))
        return np.concatenate([self.scale(clip) * part.cpu().numpy() for part in scores])


def refuse_other_pictures(scorer: str, images: np.ndarray, prompts: Sequence[str]) -> None:
    """Raise DataError for what is no batch of pictures, each with its prompt."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(f"{scorer}: expected pictures uint8 (B, H, W, 3), got {images.dtype} {images.shape}")
    if len(prompts) != len(images):
        raise DataError(f"{scorer}: expected one prompt for each of {len(images)} pictures, got {len(prompts)}")
