"""Scorer: which picture people prefer for a prompt, by PickScore v1 (a CLIP ViT-H/14 trained on Pick-a-Pic)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import DataError
from rewards._clip import ClipAgreement
from rewards._weights import CLIP_FILES, PublishedCheckpoint

if TYPE_CHECKING:
    from rewards._clip_model import Clip

__all__ = ["PickScore"]

LARGEST = 101.0  # CLIP's training cuts the scale at 100, as a logarithm, which rounding carries a little beyond


class PickScore(ClipAgreement):
    """Cosine of the embeddings of picture and prompt times the logit scale, at most 100 either way; mostly 17 to 25.

    Source: Pick-a-Pic, arXiv 2305.01569, section 4, and its published code; SOAR, arXiv 2604.12617, and Flow-GRPO,
    arXiv 2505.05470, report it so (22.34 for SD3.5-Medium on DrawBench). Flow-GRPO trains on a 26th of it.
    """

    name: ClassVar[str] = "pickscore"
    random_weights = "rewards._random_weights:write_random_weights"
    version: ClassVar[str] = "1"
    range: ClassVar[tuple[float, float]] = (-LARGEST, LARGEST)
    source: ClassVar[str] = "arXiv 2305.01569; yuvalkirstain/PickScore_v1"
    checkpoint: ClassVar[PublishedCheckpoint] = PublishedCheckpoint(
        home="yuvalkirstain/PickScore_v1",
        files=CLIP_FILES,
        licence="none found with the weights: read the page of yuvalkirstain/PickScore_v1",
        get=f"`hf download yuvalkirstain/PickScore_v1 {' '.join(CLIP_FILES)}`",
        gib=3.67,
    )
    held = checkpoint.held

    def scale(self, clip: Clip) -> float:
        """The exponential of the checkpoint's logit scale.

        Raises:
            DataError: it is larger than CLIP's training lets it become.
        """
        scale = float(clip.model.logit_scale.double().exp())
        if scale > LARGEST:
            raise DataError(f"{self.name}: expected a logit scale of about 100 at most, got {scale:g}: get it again")
        return scale
