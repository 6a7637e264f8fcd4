"""Gold scorer of the embedded world: is what the prompt says really there?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bench.api import Reward


class ScenesGenEval(Reward):
    """GenEval's verdict from an exact reader: 1 if the picture shows what the prompt says, else 0.

    Every class that the prompt names is there exactly as often as named, in the colour and at the place named; a text
    is spelt exactly, with nothing beside it. A notable blob that is no shape of the world makes the picture fail.
    Further objects of classes that are not named are allowed, as in GenEval. The category is `metadata["tag"]`.

    partial: give the mean fulfilment of the single claims instead, in [0, 1], divided by 1 + the number of unknown
    blobs, and 0 if something excluded is there: easier to learn from, easier to exploit (what Flow-GRPO trains on).

    Source: GenEval, arXiv 2310.11513, section 3; partial credit: Flow-GRPO, arXiv 2505.05470, section 5.1. Deviations:
    counts are exact in every category; partial credit holds for all claims of a prompt alike.
    """

    name = "scenes-geneval"
    version = "1"
    range = (0.0, 1.0)
    higher_is_better = True
    gold = True
    source = "arXiv 2310.11513, section 3"
    held: ClassVar[Mapping[str, float]] = {}

    def __init__(self, partial: bool = False) -> None:
        self.partial = partial
        self._read: Callable[[np.ndarray], list[tuple[list[Any], str, int]]] | None = None

    def load(self) -> None:
        """Import the reader and draw its templates."""
        from bench.datasets.scenes.detect import detect, spelt
        from bench.datasets.scenes.vocabulary import SHAPES

        def read(images: np.ndarray) -> list[tuple[list[Any], str, int]]:
            pictures = detect(images).by_picture()
            return [(things, spelt(things), sum(t.kind not in SHAPES for t in things)) for things in pictures]

        read(np.zeros((1, 64, 64, 3), np.uint8))
        self._read = read

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in {0, 1}, or in [0, 1] with partial credit, of uint8 (B, 64, 64, 3).

        Raises: ValueError if pictures and metadata differ in number, or metadata claim nothing.
        """
        from bench.datasets.scenes.verify import claims, nothing_excluded, satisfies

        if len(images) != len(metadata):
            raise ValueError(f"expected one metadata for each picture, got {len(images)} and {len(metadata)}")
        if self._read is None:
            self.load()
        assert self._read is not None
        scores = np.zeros(len(images), np.float32)
        for b, ((things, text, foreign), claim) in enumerate(zip(self._read(images), metadata, strict=True)):
            if not claim.get("include") and "text" not in claim:
                raise ValueError(f"metadata must claim something under 'include' or 'text', got {dict(claim)}")
            # In a text picture glyphs are at home; anything else is in the spelling as "?" already.
            unknown = 0 if "text" in claim else foreign
            if self.partial:
                credit = float(np.mean(claims(things, text, claim))) * nothing_excluded(things, claim)
                scores[b] = credit / (1 + unknown)
            else:
                scores[b] = satisfies(things, text, claim) and unknown == 0
        return scores
