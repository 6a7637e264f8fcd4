"""How well a picture compresses: a reward without a network, whose effect anyone can see."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bench.api import Reward
from rewards._clip import refuse_other_pictures

QUALITY = 95


def kilobytes(image: np.ndarray) -> float:
    """Size of a picture uint8 (H, W, 3) as a JPEG file of quality 95, in units of 1000 bytes."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=QUALITY)
    return file.tell() / 1000


class Jpeg(Reward):
    """Compressibility: minus the size in kB (1000 bytes) as a JPEG of quality 95. Prompts play no part.

    Sizes grow with the number of pixels: compare pictures of one size.

    Source: DDPO, arXiv 2305.13301, section 5.1; its code, `ddpo_pytorch/rewards.py`. Pillow's defaults otherwise
    (chroma at half the resolution), as there. Flow-GRPO's code divides the same number by 500.
    """

    name: ClassVar[str] = "jpeg"
    version: ClassVar[str] = "1"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)
    gold: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv 2305.13301, section 5.1"
    held: ClassVar[Mapping[str, float]] = {}
    reads_prompts: ClassVar[bool] = False

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32, below 0, of uint8 (B, H, W, 3).

        Raises:
            DataError: pictures of another type, or not one prompt for each.
        """
        refuse_other_pictures(self.name, images, prompts)
        return np.array([-kilobytes(image) for image in images], np.float32)


class JpegIncompressibility(Jpeg):
    """Incompressibility: the size in kB (1000 bytes) as a JPEG of quality 95. Prompts play no part.

    Source: as `Jpeg`.
    """

    name: ClassVar[str] = "jpeg-incompressibility"
    range: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32, above 0, of uint8 (B, H, W, 3)."""
        return -super().__call__(images, prompts, metadata)
