"""Scorer: how good a picture looks, by LAION's linear-MSE head on the image embedding of OpenAI's CLIP ViT-L/14."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rewards._clip import ClipReward
from rewards._weights import PublishedCheckpoint, located, read_tensors
from rewards.clipscore import OPENAI_CLIP

if TYPE_CHECKING:
    from torch import nn

    from rewards._clip import GradientJudge, Judge
    from rewards._clip_model import Clip

__all__ = ["HEAD", "Aesthetic", "head"]

HEAD = PublishedCheckpoint(
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


class Aesthetic(ClipReward):
    """LAION's aesthetic predictor v2, whose labels were 1 to 10; most pictures get 4 to 7.

    The head is linear and its result is not cut, so there are no bounds: a strange picture may leave the range of the
    labels. Prompts play no part. All in float32, the embedding scaled to length 1 as the head was trained.

    Source: github.com/christophschuhmann/improved-aesthetic-predictor, simple_inference.py; reported by Flow-GRPO,
    arXiv 2505.05470, and SOAR, arXiv 2604.12617 (5.36 for SD3.5-Medium on DrawBench).
    """

    name: ClassVar[str] = "aesthetic"
    random_weights = "rewards._random_weights:write_random_weights"
    version: ClassVar[str] = "3"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    source: ClassVar[str] = "improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE; openai/clip-vit-large-patch14"
    reads_prompts: ClassVar[bool] = False

    checkpoint: ClassVar[PublishedCheckpoint] = OPENAI_CLIP
    held = OPENAI_CLIP.held

    @classmethod
    def files(cls) -> list[Path]:
        """Those of the CLIP and of the head.

        Raises:
            CheckpointMissing: one of them is not on this machine.
        """
        return [*super().files(), located(HEAD) / HEAD.files[0]]

    def judge(self, clip: Clip) -> Judge:
        """The head's output on unit embeddings.

        Raises:
            DataError: the head has other tensors than its network.
        """
        from rewards._clip_model import centre_crop, rounded_middle

        layers = self.layers(clip)
        return lambda images, prompts: layers(clip.image(centre_crop(images, clip.size, rounded_middle)))[:, 0]

    def gradient_judge(self, clip: Clip) -> GradientJudge:
        """The same with gradient."""
        from rewards._clip_model import centre_crop_with_gradient, rounded_middle

        layers = self.layers(clip)
        return lambda images, prompts: layers(
            clip.image_with_gradient(centre_crop_with_gradient(images, clip.size, rounded_middle))
        )[:, 0]

    def layers(self, clip: Clip) -> nn.Module:
        """The head, frozen.

        Raises:
            DataError: it has other tensors than its network.
        """
        from rewards._clip_model import shapes

        network = head(clip.dimensions)
        tensors = read_tensors(located(HEAD) / HEAD.files[0], shapes(network), str(clip.device))
        network.load_state_dict(tensors, assign=True)
        return network.requires_grad_(False).eval()["layers"]
