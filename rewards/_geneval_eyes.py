"""What GenEval sees with: an instance segmenter for objects, and a CLIP that names their colours.

Pictures are looked at one by one, so that no score depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
)

from bench.api import DataError
from bench.prompts.vocabulary import CLASSES, COLORS
from rewards._geneval_rules import CONFIDENCE, Detection
from rewards._weights import device, load_model

MOST_INSTANCES = 100  # of one picture, over all classes
GREY = (0x99, 0x99, 0x99)  # GenEval's background around an object whose colour is asked for
TEMPLATES = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")


class ObjectDetector:
    """Mask2Former on COCO: objects with their boxes and masks.

    From the queries' logits to detections as OpenMMLab's detection code does it, with which GenEval was published
    (mmdet 2.28, `maskformer_fusion_head.instance_postprocess`), and not as transformers does, which lets no two objects
    share a pixel.
    """

    def __init__(self, folder: Path) -> None:
        self._model = load_model(Mask2FormerForUniversalSegmentation, folder)
        self._processor = Mask2FormerImageProcessorPil.from_pretrained(folder, local_files_only=True)
        labels = self._model.config.id2label
        if len(labels) != len(CLASSES):
            raise DataError(
                f"{folder}: expected a detector of COCO's {len(CLASSES)} classes, got {len(labels)} classes"
            )

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Objects of a picture uint8 (H, W, 3), more confident than 0.3, in no order."""
        inputs = self._processor(images=image, return_tensors="pt").to(device())
        found = self._model(**inputs)
        masks = interpolate(found.masks_queries_logits, inputs["pixel_values"].shape[2:], mode="bilinear")
        height, width = (int(inputs["pixel_mask"][0].any(dim).sum()) for dim in (1, 0))  # without padding
        masks = interpolate(masks[..., :height, :width], image.shape[:2], mode="bilinear")[0]
        return instances(found.class_queries_logits[0], masks)


def instances(classes: Tensor, masks: Tensor) -> list[Detection]:
    """Detections more confident than 0.3, from logits of classes (queries, 81) and of pixels (queries, H, W).

    A confidence is the probability of the class times the mean probability of the pixels in the mask; every query may
    give several classes. The last class is "no object".
    """
    chances = classes.float().softmax(-1)[:, :-1].flatten()
    best = chances.topk(min(MOST_INSTANCES, len(chances)))
    detections = []
    for chance, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        query, label = divmod(place, classes.shape[1] - 1)
        mask = masks[query] > 0
        if chance <= CONFIDENCE or not mask.any():
            continue
        confidence = chance * float(masks[query].sigmoid()[mask].mean())
        if confidence > CONFIDENCE:
            rows, columns = (mask.any(dim).nonzero()[:, 0].tolist() for dim in (1, 0))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            detections.append(Detection(CLASSES[label], confidence, box, mask.cpu().numpy()))
    return detections


class ColorNamer:
    """CLIP as a classifier of colours: what an object looks like, among GenEval's ten."""

    def __init__(self, folder: Path) -> None:
        self._model = load_model(CLIPModel, folder)
        self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self._processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._classifier = lru_cache(len(CLASSES))(self._embed_colors)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, label: str, found: Sequence[Detection]) -> list[str]:
        """A colour for each detection in a picture uint8 (H, W, 3)."""
        crops = [cut_out(image, detection) for detection in found]
        pixels = self._processor(images=crops, return_tensors="pt").pixel_values.to(device())
        seen = normalize(self._model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        return [COLORS[best] for best in (seen @ self._classifier(label).T).argmax(1).tolist()]

    def _embed_colors(self, label: str) -> Tensor:
        """Unit embeddings (10, D): the mean over the templates, of each colour of this class."""
        texts = [template.format(color=color, label=label) for color in COLORS for template in TEMPLATES]
        inputs: Any = self._tokenizer(texts, padding=True, return_tensors="pt").to(device())
        each = normalize(self._model.get_text_features(**inputs).pooler_output, dim=-1)
        return normalize(each.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(1), dim=-1)


def cut_out(image: np.ndarray, found: Detection) -> Image.Image:
    """The box of an object, grey wherever its mask is not."""
    whole = image if found.mask is None else np.where(found.mask[..., None], image, np.array(GREY, np.uint8))
    left, top, right, bottom = map(round, found.box)
    return Image.fromarray(np.ascontiguousarray(whole[top:bottom, left:right]))
