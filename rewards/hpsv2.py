"""Scorer: which picture people prefer for a prompt, by HPS v2.1 (a CLIP ViT-H/14 trained on HPD v2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rewards._clip import ClipAgreement
from rewards._weights import CLIP_FILES, PublishedCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONFIG", "HPSv2"]

# open_clip's ViT-H-14 in the words of transformers' CLIPConfig.
CONFIG: dict[str, Any] = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "hidden_act": "gelu", "vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": 1024,
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "hidden_act": "gelu", "image_size": 224, "patch_size": 14, "projection_dim": 1024,
    },
}  # fmt: skip


class HPSv2(ClipAgreement):
    """Cosine of the embeddings of picture and prompt by HPS v2.1, in [-1, 1]; mostly 0.2 to 0.35.

    Source: HPS v2, arXiv 2306.09341, and its published code; SOAR, arXiv 2604.12617, reports v2.1 so (0.279 for
    SD3.5-Medium on DrawBench); HPS v2's own tables give a hundred times this. Whether the published code's resize
    antialiases depends on the version of torchvision: it does since 0.17, which is followed. Deviations: float32
    throughout, where that code lets a GPU compute in float16; prompts are read as they stand, without ftfy's repairs
    (of HTML entities, curly quotes, broken Unicode); an oblong picture whose longer side is 224 is padded like any
    other, where that code fails.
    """

    name: ClassVar[str] = "hpsv2"
    random_weights = "rewards._random_weights:write_random_weights"
    version: ClassVar[str] = "2.1"
    source: ClassVar[str] = (
        "arXiv 2306.09341; xswu/HPSv2, HPS_v2.1_compressed.pt, in float32, prompts without ftfy's repairs"
    )
    checkpoint: ClassVar[PublishedCheckpoint] = PublishedCheckpoint(
        home="xswu/HPSv2",
        files=CLIP_FILES,
        licence="Apache-2.0",
        get="`hf download xswu/HPSv2 HPS_v2.1_compressed.pt --local-dir .`, then "
        "`python -m rewards.convert hpsv2 HPS_v2.1_compressed.pt`",
        gib=3.67,
    )
    held = checkpoint.held

    def prepared(self, images: np.ndarray, size: int) -> Tensor:
        """The whole picture, its longer side `size`, on a black square; resized as real numbers, not grey levels."""
        import torch

        return self.prepared_with_gradient(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, size)

    def prepared_with_gradient(self, images: Tensor, size: int) -> Tensor:
        """The same of pictures float32 (B, 3, H, W) in [0, 1]."""
        from torch.nn.functional import interpolate, pad

        from rewards._clip_model import normalised

        longer = max(images.shape[2:])
        height, width = (round(side * size / longer) for side in images.shape[2:])
        if longer != size:
            images = interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=True)
        left, top = (size - width) // 2, (size - height) // 2
        return normalised(pad(images, (left, size - width - left, top, size - height - top)))
