"""Scorer: how well picture and prompt agree, by OpenAI's CLIP ViT-L/14."""

from __future__ import annotations

from typing import ClassVar

from rewards._clip import ClipAgreement
from rewards._weights import CLIP_FILES, PublishedCheckpoint

__all__ = ["OPENAI_CLIP", "ClipScore"]

OPENAI_CLIP = PublishedCheckpoint(
    home="openai/clip-vit-large-patch14",
    files=CLIP_FILES,
    licence="MIT, of github.com/openai/CLIP",
    get=f"`hf download openai/clip-vit-large-patch14 {' '.join(CLIP_FILES)}`",
    gib=1.59,
)


class ClipScore(ClipAgreement):
    """Cosine of the embeddings of picture and prompt by OpenAI's CLIP ViT-L/14, in [-1, 1]; mostly 0.15 to 0.35.

    Source: CLIPScore, arXiv 2104.08718, section 3, without its factor 2.5 and without cutting at 0, as the tables of
    Flow-GRPO, arXiv 2505.05470, and SOAR, arXiv 2604.12617, give it (0.285 for SD3.5-Medium on DrawBench). Deviations
    from Flow-GRPO's training code: it divides the logit, 100 times this, by 30, and resizes with a bilinear filter.
    """

    name: ClassVar[str] = "clipscore"
    random_weights = "rewards._random_weights:write_random_weights"
    version: ClassVar[str] = "1"
    source: ClassVar[str] = (
        "arXiv 2104.08718; openai/clip-vit-large-patch14 with its own preprocessing, where Flow-GRPO's code resizes "
        "with a bilinear filter"
    )
    checkpoint: ClassVar[PublishedCheckpoint] = OPENAI_CLIP
    held = OPENAI_CLIP.held
