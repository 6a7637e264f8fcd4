"""What GenEval sees with: an instance segmenter for objects, and a CLIP that names their colours.

Pictures are looked at one by one, so that no score depends on its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil
from transformers.utils import logging

from bench.api import DataError
from bench.prompts.vocabulary import CLASSES, COLORS
from rewards._clip_model import Clip, centre_crop, device
from rewards._geneval_rules import CONFIDENCE, Detection
from rewards._weights import refuse_other

# Tables that the detector computes by itself (older files hold them all the same), and what only its loss reads.
_NO_WEIGHTS = ("relative_position_index", "criterion.empty_weight")
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
        self._model = _read_detector(folder)
        self._processor = _read_processor(folder / "preprocessor_config.json")
        labels = self._model.config.id2label or {}
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


def _read_detector(folder: Path) -> Any:
    """The network in float32, frozen; refuses other tensors than its own."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # it would break the harness' own display
    logging.set_verbosity_error()  # what is missing is told below
    try:
        loaded: Any = Mask2FormerForUniversalSegmentation.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
        )  # fmt: skip
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: expected a Mask2Former with safetensors weights: {error}") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
    model, found = loaded
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if _is_weight(name)}
    held = {name: shape for name, shape in expected.items() if name not in found["missing_keys"]}
    held |= {name: tuple(theirs) for name, theirs, _ in found["mismatched_keys"]}
    held |= {name: () for name in found["unexpected_keys"] if _is_weight(name)}
    refuse_other(held, expected, str(folder))
    return model.requires_grad_(False).eval().to(device())


def _read_processor(path: Path) -> Mask2FormerImageProcessorPil:
    """The resizing to 800 pixels of the shorter side, and the normalisation, by Pillow whatever else is installed."""
    try:
        return Mask2FormerImageProcessorPil.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: expected the preprocessing of a Mask2Former ({error}): get it again") from error


def _is_weight(name: str) -> bool:
    return not name.endswith(_NO_WEIGHTS)


class ColorNamer:
    """CLIP as a classifier of colours: what an object looks like, among GenEval's ten."""

    def __init__(self, folder: Path) -> None:
        self._clip = Clip(folder)
        self._classifier = lru_cache(len(CLASSES))(self._embed_colors)

    def __call__(self, image: np.ndarray, label: str, found: Sequence[Detection]) -> list[str]:
        """A colour for each detection in a picture uint8 (H, W, 3)."""
        pixels = torch.cat([centre_crop(cut_out(image, detection)[None], self._clip.size) for detection in found])
        return [COLORS[best] for best in (self._clip.image(pixels) @ self._classifier(label).T).argmax(1).tolist()]

    def _embed_colors(self, label: str) -> Tensor:
        """Unit embeddings (10, D): the mean over the templates, of each colour of this class."""
        texts = [template.format(color=color, label=label) for color in COLORS for template in TEMPLATES]
        each = self._clip.text(texts).unflatten(0, (len(COLORS), len(TEMPLATES)))
        return normalize(each.mean(1), dim=-1)


def cut_out(image: np.ndarray, found: Detection) -> np.ndarray:
    """The box of an object in a picture uint8 (H, W, 3), grey wherever its mask is not."""
    whole = image if found.mask is None else np.where(found.mask[..., None], image, np.array(GREY, np.uint8))
    left, top, right, bottom = map(round, found.box)
    return whole[top:bottom, left:right]
