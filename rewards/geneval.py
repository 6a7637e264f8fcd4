"""GenEval on real pictures: are the objects that the prompt names there, as often, in the colours and places named?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import DataError, Reward
from bench.datasets.prompts.geneval import CLASSES, COLORS, POSITIONS
from rewards._clip import refuse_other_pictures
from rewards._weights import PublishedCheckpoint, located, weights_fingerprint
from rewards.clipscore import OPENAI_CLIP

if TYPE_CHECKING:
    from rewards._geneval_detector import ColorNamer, ObjectDetector

_FILES = ("config.json", "model.safetensors")
DETECTOR = PublishedCheckpoint(
    home="facebook/mask2former-swin-small-coco-instance",
    files=_FILES,
    licence="as its model card says; the code of its authors is under MIT",
    get=f"`hf download facebook/mask2former-swin-small-coco-instance {' '.join(_FILES)}`",
    gib=0.26,
)


class GenEval(Reward):
    """1 if detector and colour classifier find what the prompt claims, else 0.

    The claim is the metadata in GenEval's format: `tag`, `include`, `exclude`. The benchmark's overall score is the
    mean of the six tags' means, not the mean over pictures.

    Source: GenEval, arXiv 2310.11513, and `evaluation/evaluate_images.py` of its repository, with its thresholds (see
    `rewards/_geneval_rules.py`). Deviations: the detector is the same network, Mask2Former with a small Swin, on the
    same data, but with the weights of its authors instead of OpenMMLab's retraining; Pillow resizes (to 800 pixels by
    at most 1333, as there) instead of OpenCV; the CLIP, OpenAI's ViT-L/14, runs in float32 instead of mixed precision.
    """

    name: ClassVar[str] = "geneval"
    random_weights = "rewards._random_weights:write_random_weights"
    version: ClassVar[str] = "2-mask2former-swin-small"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = (
        f"arXiv 2310.11513; detector {DETECTOR.home} at 800 pixels, its authors' weights and Pillow's resizing in the "
        "place of OpenMMLab's retraining and OpenCV; CLIP in float32"
    )
    held = DETECTOR.held | OPENAI_CLIP.held
    examples: ClassVar[Sequence[tuple[str, Mapping[str, Any]]]] = (
        ("a photo of a bench", {"tag": "single_object", "include": [{"class": "bench", "count": 1}]}),
        ("a photo of a red apple", {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}]}),
    )

    def __init__(self) -> None:
        self._eyes: tuple[ObjectDetector, ColorNamer] | None = None
        self.fingerprint = ""

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        """Whether the prompt's claim is one of GenEval's classes, colours and positions."""
        parts = [*(metadata.get("include") or ()), *(metadata.get("exclude") or ())]
        return bool(metadata.get("include")) and all(
            part["class"] in CLASSES
            and part.get("color", COLORS[0]) in COLORS
            and (part.get("position") or POSITIONS)[0] in POSITIONS
            for part in parts
        )

    @classmethod
    def require_checkpoint(cls) -> None:
        """Look for detector and CLIP."""
        for checkpoint in (DETECTOR, OPENAI_CLIP):
            located(checkpoint)

    def load(self) -> None:
        """Read detector and CLIP.

        Raises:
            CheckpointMissing: one of them is not on this machine.
            DataError: one has other tensors than its network.
        """
        from rewards._geneval_detector import ColorNamer, ObjectDetector

        folders = {checkpoint: located(checkpoint) for checkpoint in (DETECTOR, OPENAI_CLIP)}
        self.fingerprint = weights_fingerprint(
            *(folder / name for checkpoint, folder in folders.items() for name in checkpoint.files)
        )
        self._eyes = ObjectDetector(folders[DETECTOR]), ColorNamer(folders[OPENAI_CLIP])

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32, 0 or 1, of uint8 (B, H, W, 3).

        Raises:
            DataError: pictures of another type, not one prompt for each, or one that claims nothing GenEval knows.
        """
        from rewards._geneval_rules import counted, holds

        refuse_other_pictures(self.name, images, prompts)
        if self._eyes is None:
            self.load()
        assert self._eyes is not None
        detector, namer = self._eyes
        scores = np.zeros(len(images), np.float32)
        for row, (image, prompt, claim) in enumerate(zip(images, prompts, metadata, strict=True)):
            if not self.applies(claim):
                raise DataError(
                    f"geneval: expected metadata in GenEval's format (tag, include, exclude) with its classes and "
                    f"colours, got {dict(claim)} for {prompt!r}: ask applies() first"
                )
            objects = counted(detector(image), str(claim.get("tag", "")))
            scores[row] = holds(objects, claim, partial(namer, image))
        return scores
