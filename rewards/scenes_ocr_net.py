"""Proxy scorer of the embedded world: how well the picture spells the quoted text, by a small recogniser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import DataError, Reward

if TYPE_CHECKING:
    from transformers import ResNetForImageClassification


class ScenesOCRNet(Reward):
    """1 - min(edit distance, length) / length between what a ResNet reads and the text that the prompt quotes.

    The network has three slots from left to right, each a glyph or blank. It reads something into any picture, and it
    does not mind what stands beside the text: what the gold scorer `scenes-ocr` refuses, it can be made to accept.

    Source: Flow-GRPO's OCR reward, arXiv 2505.05470, section 5.1.
    """

    name: ClassVar[str] = "scenes-ocr-net"
    stands_for: ClassVar[str] = "scenes-ocr"
    version: ClassVar[str] = "1"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "arXiv 2505.05470, section 5.1"
    held: ClassVar[Mapping[str, float]] = {}

    def __init__(self, assets: Path | None = None) -> None:
        self._assets = assets
        self._model: ResNetForImageClassification | None = None
        self.fingerprint = ""

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        """Whether the prompt quotes a text."""
        return metadata.get("tag") == "text"

    def load(self) -> None:
        """Read the recogniser of the assets.

        Raises:
            DataError: there is none, or it has another number of logits.
        """
        from bench.datasets.scenes.proxies import ASSETS, OCR_FOLDER, load_ocr, proxy_fingerprint

        folder = (self._assets or ASSETS) / OCR_FOLDER
        self.fingerprint = proxy_fingerprint(folder)
        self._model = load_ocr(folder)

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 1] of uint8 (B, 64, 64, 3).

        Raises:
            DataError: pictures of another size, or metadata without a text.
        """
        from bench.datasets.scenes.proxies import recognise_text
        from bench.datasets.scenes.verify import text_similarity

        missing = [dict(claim) for claim in metadata if "text" not in claim]
        if missing or len(metadata) != len(images):
            raise DataError(
                f"{self.name}: expected a prompt that quotes a text for each of {len(images)} pictures (ask applies() "
                f"first), got {len(metadata)} of which {len(missing)} quote none, such as {missing[:1]}"
            )
        if self._model is None:
            self.load()
        assert self._model is not None
        pairs = zip(recognise_text(self._model, images), metadata, strict=True)
        return np.array([text_similarity(read, claim["text"]) for read, claim in pairs], np.float32)
