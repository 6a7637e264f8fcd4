"""Scorer: how good a picture looks, by LAION's linear-MSE head on the image embedding of OpenAI's CLIP ViT-L/14."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import Reward
from rewards._clip import CHUNK, refuse_other_pictures
from rewards._weights import Published, fingerprint, located, read_tensors
from rewards.clipscore import OPENAI_CLIP

if TYPE_CHECKING:
    from torch import nn

    from rewards._clip_model import Clip

__all__ = ["HEAD", "Aesthetic", "head"]

HEAD = Published(
    home="christophschuhmann/improved-aesthetic-predictor",
    files=("sac+logos+ava1-l14-linearMSE.safetensors",),
    licence="Apache-2.0",
    get="download sac+logos+ava1-l14-linearMSE.pth from github.com/christophschuhmann/improved-aesthetic-predictor, "
    "then `python -m rewards.convert aesthetic sac+logos+ava1-l14-linearMSE.pth`",
)


def head(dimensions: int) -> nn.ModuleDict:
    """LAION's head on embeddings of so many numbers: five linear layers, nothing but dropout between them."""
    from torch import nn

    layers = nn.Sequential(
        nn.Linear(dimensions, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64),
        nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
    )  # fmt: skip
    return nn.ModuleDict({"layers": layers})


class Aesthetic(Reward):
    """LAION's aesthetic predictor v2, whose labels were 1 to 10; most pictures get 4 to 7.

    The head is linear and its result is not cut, so there are no bounds: a strange picture may leave the range of the
    labels. Prompts play no part. All in float32, the embedding scaled to length 1 as the head was trained.

    Source: github.com/christophschuhmann/improved-aesthetic-predictor, simple_inference.py; reported by Flow-GRPO,
    arXiv 2505.05470, and SOAR, arXiv 2604.12617 (5.36 for SD3.5-Medium on DrawBench).
    """

    name: ClassVar[str] = "aesthetic"
    version: ClassVar[str] = "2"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    source: ClassVar[str] = "improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE; openai/clip-vit-large-patch14"
    reads_prompts: ClassVar[bool] = False

    def __init__(self) -> None:
        self._networks: tuple[Clip, nn.ModuleDict] | None = None
        self.fingerprint = ""

    def load(self) -> None:
        """Read the CLIP and the head.

        Raises:
            CheckpointMissing: one of them is not on this machine.
            DataError: one has other tensors than its network.
        """
        from rewards._clip_model import Clip, device, shapes

        clip_folder, weights = located(OPENAI_CLIP), located(HEAD) / HEAD.files[0]
        self.fingerprint = fingerprint(*(clip_folder / name for name in OPENAI_CLIP.files), weights)
        clip = Clip(clip_folder)
        network = head(clip.dimensions)
        network.load_state_dict(read_tensors(weights, shapes(network), device()), assign=True)
        self._networks = clip, network.requires_grad_(False).eval()

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 of pictures uint8 (B, H, W, 3) of any size.

        Raises:
            DataError: pictures of another type, or not one prompt for each.
        """
        from rewards._clip_model import centre_crop

        refuse_other_pictures(self.name, images, prompts)
        if self._networks is None:
            self.load()
        assert self._networks is not None
        clip, network = self._networks
        parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
        scores = [network["layers"](clip.image(centre_crop(part, clip.size)))[:, 0] for part in parts]
        return np.concatenate([part.cpu().numpy() for part in scores])
