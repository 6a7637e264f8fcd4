"""Pictures to latents and back, by a diffusers AutoencoderKL, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.api import ConfigError, DataError
from bench.device import memory_told

CHUNK = 16  # pictures that one pass takes, at most: of small pictures the fastest measured on a CPU
PIXELS = 2**20  # of all pictures of one pass, at most: four of 512 x 512
_LESS = "say --runtime.frozen_weights bfloat16, or train in smaller micro-batches"


def latent_shape(pipeline: Any, resolution: int | None) -> tuple[int, int, int]:
    """(C, h, w) of one latent, of pictures `resolution` pixels wide and high, or of the model's own size.

    Raises:
        ConfigError: the transformer takes no pictures of that size.
    """
    if resolution is None:
        config = pipeline.transformer.config
        return config.in_channels, config.sample_size, config.sample_size
    return latent_of(pipeline, (resolution, resolution), f"runtime.resolution {resolution}")


def latent_of(pipeline: Any, size: tuple[int, int], requested: str) -> tuple[int, int, int]:
    """(C, h, w) of one latent of pictures of a size (W, H); `requested` says in a message who asks for it.

    Raises:
        ConfigError: the transformer takes no pictures of that size.
    """
    config, scale = pipeline.transformer.config, _scale(pipeline.vae)
    unit = scale * config.patch_size
    largest = unit * config.pos_embed_max_size
    if any(side % unit or side > largest for side in size):
        raise ConfigError(f"{requested}: expected a multiple of {unit}, at most {largest}")
    return config.in_channels, size[1] // scale, size[0] // scale


def _scale(vae: Any) -> int:
    """Pixels across one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _chunk(height: int, width: int) -> int:
    """Pictures of one pass, from their sides in pixels."""
    return max(1, min(CHUNK, PIXELS // (height * width)))


def pictures_at_once(vae: Any, latent: tuple[int, ...]) -> int:
    """Pictures that one pass takes at most, from the shape (C, h, w) of a latent."""
    height, width = (side * _scale(vae) for side in latent[-2:])
    return _chunk(height, width)


@torch.no_grad()
def decode_latents(vae: Any, z0: Tensor) -> np.ndarray:
    """Scaled latents (B, C, h, w) to pictures uint8 (B, H, W, 3)."""
    pictures = []
    for part in _decoded(vae, z0):
        x = (part * 255).round().to(torch.uint8)
        pictures.append(x.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(pictures)


def decode_with_gradient(vae: Any, z0: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) to pictures float32 (B, 3, H, W) in [0, 1], with gradient."""
    return torch.cat(list(_decoded(vae, z0)))


def _decoded(vae: Any, z0: Tensor) -> Iterator[Tensor]:
    """Pictures float32 (b, 3, H, W) in [0, 1], some at a time."""
    shift = vae.config.shift_factor or 0.0
    for part in z0.split(pictures_at_once(vae, z0.shape[1:])):
        with memory_told(f"decoding {len(part)} pictures", _LESS):
            x = vae.decode((part / vae.config.scaling_factor + shift).to(vae.dtype), return_dict=False)[0]
        yield (x.float() / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def encode_images(vae: Any, images: np.ndarray, latent: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, *latent) float32 of the scaled latents of pictures uint8 (B, H, W, 3).

    Every pass has as many pictures, black ones where there are too few: convolutions of another shape may round
    differently, and a picture has to have the same bits whatever is encoded beside it.

    Raises:
        DataError: the pictures are of another size than those of such latents.
    """
    height, width = (side * _scale(vae) for side in latent[1:])
    if images.shape[1:] != (height, width, 3):
        raise DataError(
            f"pictures of shape {images.shape[1:]}: the model takes {(height, width, 3)}; resize them, or set "
            "runtime.resolution"
        )
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
    means, stds = [], []
    chunk = pictures_at_once(vae, latent)
    padded = np.zeros((-(-len(images) // chunk) * chunk, height, width, 3), np.uint8)
    padded[: len(images)] = images
    for part in torch.from_numpy(padded).split(chunk):
        # Contiguous, because another memory layout rounds differently further on
        x = part.to(vae.device).permute(0, 3, 1, 2).contiguous()
        with memory_told(f"encoding {len(x)} pictures", _LESS):
            posterior = vae.encode((x.float() / 127.5 - 1).to(vae.dtype)).latent_dist
        means.append((posterior.mean.float() - shift) * scale)
        stds.append(posterior.std.float() * scale)
    return torch.cat(means)[: len(images)], torch.cat(stds)[: len(images)]
