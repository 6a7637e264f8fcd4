"""Gold scorer of the embedded world: how well the picture spells the quoted text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bench.api import Reward


class ScenesOCR(Reward):
    """1 - min(edit distance, length) / length between what the picture spells and the text that the prompt quotes.

    Glyphs are read from left to right; any other object among them counts as a wrong glyph. A picture with nothing in
    it scores 0. Only prompts with a text can be scored.

    Source: Flow-GRPO's OCR reward, arXiv 2505.05470, section 5.1. Deviation: text around the wanted one is an error
    here, whereas the reference code forgives it.
    """

    name = "scenes-ocr"
    version = "1"
    range = (0.0, 1.0)
    higher_is_better = True
    gold = True
    source = "arXiv 2505.05470, section 5.1"
    held: ClassVar[Mapping[str, float]] = {}

    def __init__(self) -> None:
        self._read: Callable[[np.ndarray], list[str]] | None = None

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        """Whether the prompt quotes a text."""
        return metadata.get("tag") == "text"

    def load(self) -> None:
        """Import the reader and draw its templates."""
        from bench.datasets.scenes.detect import detect_text

        detect_text(np.zeros((1, 64, 64, 3), np.uint8))
        self._read = detect_text

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 1] of uint8 (B, 64, 64, 3).

        Raises: ValueError if pictures and metadata differ in number, or metadata lack a text.
        """
        from bench.datasets.scenes.verify import text_similarity

        if len(images) != len(metadata):
            raise ValueError(f"expected one metadata for each picture, got {len(images)} and {len(metadata)}")
        for claim in metadata:
            if "text" not in claim:
                raise ValueError(
                    f"{self.name} scores prompts that quote a text; ask applies() first. Got {dict(claim)}"
                )
        if self._read is None:
            self.load()
        assert self._read is not None
        pairs = zip(self._read(images), metadata, strict=True)
        return np.array([text_similarity(read, claim["text"]) for read, claim in pairs], np.float32)
