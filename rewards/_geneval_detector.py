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
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad
from transformers import Mask2FormerForUniversalSegmentation
from transformers.utils import logging

from bench.api import DataError
from bench.datasets.prompts.geneval import CLASSES, COLORS
from bench.device import present_device
from rewards._clip_model import centre_crop, rounded_middle, shared_clip
from rewards._geneval_rules import CONFIDENCE, Detection
from rewards._weights import refuse_other

# Tables that the detector computes by itself (older files hold them all the same), and what only its loss reads.
_NO_WEIGHTS = ("relative_position_index", "criterion.empty_weight")
_SHORTER, _LONGER, _MULTIPLE = 800, 1333, 32  # pixels of what the detector sees, padded to multiples
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, of 255
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
        self._device = present_device()
        self._model = _read_detector(folder).to(self._device)
        labels = self._model.config.id2label or {}
        if len(labels) != len(CLASSES):
            raise DataError(
                f"{folder}: expected a detector of COCO's {len(CLASSES)} classes, got {len(labels)} classes"
            )

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Objects of a picture uint8 (H, W, 3), more confident than 0.3, in no order."""
        pixels = seen(image)
        height, width = pixels.shape[1:]
        padded = pad(pixels, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))[None].to(self._device)
        found = self._model(padded)
        masks = interpolate(found.masks_queries_logits, padded.shape[2:], mode="bilinear")
        masks = interpolate(masks[..., :height, :width], image.shape[:2], mode="bilinear")[0]
        return instances(found.class_queries_logits[0], masks)


def seen(image: np.ndarray) -> Tensor:
    """What the detector is shown, float32 (3, h, w), normalised, of a picture uint8 (H, W, 3).

    Its shorter side is brought to 800, or its longer one to 1333 where that is less, as in the test pipeline that the
    detector of GenEval was published with (mmdet 2.28, `mask2former_r50_lsj_8x2_50e_coco`); not to the 384 x 384 of
    this checkpoint's own `preprocessor_config.json`. Pillow's bilinear filter stands for OpenCV's: they are the same
    where a picture grows.
    """
    height, width = image.shape[:2]
    scale = min(_LONGER / max(height, width), _SHORTER / min(height, width))
    size = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
    return (torch.from_numpy(resized.copy()).permute(2, 0, 1) - mean) / deviation


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
    return model.requires_grad_(False).eval()


def _is_weight(name: str) -> bool:
    return not name.endswith(_NO_WEIGHTS)


class ColorNamer:
    """CLIP as a classifier of colours: what an object looks like, among GenEval's ten."""

    def __init__(self, folder: Path) -> None:
        self._clip = shared_clip(folder)
        self._classifier = lru_cache(len(CLASSES))(self._embed_colors)

    def __call__(self, image: np.ndarray, label: str, found: Sequence[Detection]) -> list[str]:
        """A colour for each detection in a picture uint8 (H, W, 3)."""
        return [COLORS[best] for best in self.likeness(image, label, found).argmax(1).tolist()]

    def likeness(self, image: np.ndarray, label: str, found: Sequence[Detection]) -> Tensor:
        """Cosines (detections, 10) of what was cut out for each, and of each colour of this class."""
        cuts = [cut_out(image, detection)[None] for detection in found]
        pixels = torch.cat([centre_crop(cut, self._clip.size, rounded_middle) for cut in cuts])
        return self._clip.image(pixels) @ self._classifier(label).T

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
