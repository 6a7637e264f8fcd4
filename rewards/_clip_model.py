"""A published CLIP, frozen, in float32, and the preprocessing of its pictures; on the device of its process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from bench.api import DataError
from bench.device import present_device
from bench.features import features
from bench.reading import read_json
from rewards._weights import CLIP_FILES, read_tensors

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of OpenAI's pictures, in [0, 1]
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
END = "<|endoftext|>"
# Buffers (0, 1, 2, ...) that older versions of transformers stored among the weights.
COUNTERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
_HIGHEST = 2  # an `eos_token_id` that makes transformers pool the text at the highest token id instead


def empty_clip(config: CLIPConfig) -> CLIPModel:
    """The network without storage: its tensors have names and shapes only."""
    with torch.device("meta"):
        return CLIPModel(config)


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every stored tensor of a network, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def shared_clip(folder: Path) -> Clip:
    """The CLIP of a folder, which scorers of this process hold together for as long as one of them does.

    Raises:
        DataError: see `Clip`.
    """
    stats = [(folder / name).stat() for name in CLIP_FILES]
    key = str(folder.resolve()), present_device(), tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
    clip = _held.get(key)
    if clip is None:
        clip = _held[key] = Clip(folder)
    return clip


class Clip:
    """A CLIPModel with its tokenizer: unit embeddings (B, D) of prompts and of prepared pictures."""

    def __init__(self, folder: Path) -> None:
        """Read `CLIP_FILES` of a folder.

        Raises:
            DataError: a file is damaged, a tensor is missing or not expected, or the text tower pools elsewhere than
                the tokenizer ends.
        """
        config, weights, vocabulary, merges = (folder / name for name in CLIP_FILES)
        self.model = empty_clip(_config(config))
        self.device = present_device()
        tensors = read_tensors(weights, shapes(self.model), str(self.device), ignored=COUNTERS)
        self.model.load_state_dict(tensors, assign=True)
        for tower in (self.model.text_model, self.model.vision_model):
            positions = torch.arange(tower.embeddings.position_ids.shape[1], device=self.device)
            tower.embeddings.position_ids = positions[None]
        self.model.requires_grad_(False).eval()
        self.tokenizer = CLIPTokenizer(str(vocabulary), str(merges), pad_token=END)
        settings: Any = self.model.config
        self.size: int = settings.vision_config.image_size
        self.context: int = settings.text_config.max_position_embeddings
        self.dimensions: int = settings.projection_dim
        pooled, end = settings.text_config.eos_token_id, self.tokenizer.eos_token_id
        if pooled != end and not (pooled == _HIGHEST and end == len(self.tokenizer) - 1):
            raise DataError(f"{folder}: the text tower pools at token {pooled}, but the tokenizer ends with {end}")

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, D) of prompts; what exceeds the context (77 tokens) is cut off. Equal ones run once."""
        unique = list(dict.fromkeys(prompts))
        ids = self.tokenizer(
            unique, padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        ).input_ids  # fmt: skip
        # What pads a prompt stands behind its end, where the causal tower does not look from
        features = self.model.get_text_features(input_ids=ids.to(self.device)).pooler_output
        rows = {prompt: row for row, prompt in enumerate(unique)}
        return _unit(features)[[rows[prompt] for prompt in prompts]]

    @torch.no_grad()
    def image(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (B, D) of normalised pictures (B, 3, size, size)."""
        network = f"CLIP {id(self)}"  # which scorers of this process hold together
        return features(network, pixels, lambda: self.image_with_gradient(pixels))

    def image_with_gradient(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (B, D) of normalised pictures (B, 3, size, size), with gradient."""
        return _unit(self.model.get_image_features(pixel_values=pixels.to(self.device)).pooler_output)


def centre_crop(images: np.ndarray, size: int, middle: Callable[[int], int] = lambda margin: margin // 2) -> Tensor:
    """Float32 (B, 3, size, size), normalised, of pictures uint8 (B, H, W, 3).

    The shorter side is brought to `size` (PIL's bicubic filter, which antialiases and rounds to whole grey levels),
    then the middle is cut out; `middle` says how much of an odd margin lies before it. Source: CLIP's `preprocess`, as
    transformers' `CLIPImageProcessor` does it, or with `rounded_middle` as torchvision.
    """
    height, width = images.shape[1:3]
    short = min(height, width)
    height, width = size * height // short, size * width // short
    top, left = middle(height - size), middle(width - size)
    box = (slice(None), slice(top, top + size), slice(left, left + size))
    resized = np.stack([np.asarray(Image.fromarray(image).resize((width, height), _BICUBIC)) for image in images])
    return normalised(torch.from_numpy(resized[box]).permute(0, 3, 1, 2) / 255)


def centre_crop_with_gradient(
    images: Tensor, size: int, middle: Callable[[int], int] = lambda margin: margin // 2
) -> Tensor:
    """What `centre_crop` does to pictures float32 (B, 3, H, W) in [0, 1], with gradient; no grey levels."""
    height, width = images.shape[2:]
    short = min(height, width)
    height, width = size * height // short, size * width // short
    top, left = middle(height - size), middle(width - size)
    if short != size:
        images = interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=True)
    return normalised(images.clamp(0, 1)[:, :, top : top + size, left : left + size])


def rounded_middle(margin: int) -> int:
    """Half of a margin as torchvision's `CenterCrop` rounds it, to the even one of two neighbours."""
    return round(margin / 2)


def normalised(pixels: Tensor) -> Tensor:
    """(x - mean) / deviation by channel, of pixels (B, 3, H, W) in [0, 1]."""
    mean, deviation = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


_BICUBIC = Image.Resampling.BICUBIC
_held: WeakValueDictionary[Hashable, Clip] = WeakValueDictionary()


def _config(path: Path) -> CLIPConfig:
    try:
        return CLIPConfig(**read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected the configuration of a CLIPModel ({error}): get it again") from error


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / x.norm(dim=1, keepdim=True)
    return unit
