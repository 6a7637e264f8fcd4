"""Pictures to latents and back, by a diffusers AutoencoderKL, in chunks that fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.api import ConfigError, DataError
from bench.model.device import memory_told

CHUNK = 64  # pictures of one pass, at most
PIXELS = 2**20  # of all pictures of one pass, at most: four of 512 x 512
_LESS = "say --runtime.frozen_weights bfloat16, or train in smaller micro-batches"


def latent_shape(pipeline: Any, resolution: int | None) -> tuple[int, int, int]:
    """(C, h, w) of one latent, of pictures `resolution` pixels wide and high, or of the model's own size.

    Raises:
        ConfigError: the transformer takes no pictures of that size.
    """
    config, scale = pipeline.transformer.config, _scale(pipeline.vae)
    if resolution is None:
        return config.in_channels, config.sample_size, config.sample_size
    unit = scale * config.patch_size
    largest = unit * config.pos_embed_max_size
    if resolution % unit or resolution > largest:
        raise ConfigError(f"runtime.resolution {resolution}: expected a multiple of {unit}, at most {largest}")
    return config.in_channels, resolution // scale, resolution // scale


def _scale(vae: Any) -> int:
    """Pixels across one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _chunk(side: int) -> int:
    """Pictures of one pass, from their side in pixels."""
    return max(1, min(CHUNK, PIXELS // side**2))


def pictures_at_once(vae: Any, latent: tuple[int, ...]) -> int:
    """Pictures that one pass decodes at most, from the shape (C, h, w) of a latent."""
    return _chunk(latent[-1] * _scale(vae))


@torch.no_grad()
def decode(vae: Any, z0: Tensor) -> np.ndarray:
    """Scaled latents (B, C, h, w) to pictures uint8 (B, H, W, 3)."""
    shift = vae.config.shift_factor or 0.0
    pictures = []
    for part in z0.split(pictures_at_once(vae, z0.shape[1:])):
        with memory_told(f"decoding {len(part)} pictures", _LESS):
            x = vae.decode((part / vae.config.scaling_factor + shift).to(vae.dtype), return_dict=False)[0]
        x = ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        pictures.append(x.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(pictures)


@torch.no_grad()
def encode(vae: Any, images: np.ndarray, latent: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, *latent) float32 of the scaled latents of pictures uint8 (B, H, W, 3).

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
    chunk = _chunk(width)
    for start in range(0, len(images), chunk):
        # Contiguous, because another memory layout rounds differently further on
        x = torch.from_numpy(images[start : start + chunk]).to(vae.device).permute(0, 3, 1, 2).contiguous()
        with memory_told(f"encoding {len(x)} pictures", _LESS):
            posterior = vae.encode((x.float() / 127.5 - 1).to(vae.dtype)).latent_dist
        means.append((posterior.mean.float() - shift) * scale)
        stds.append(posterior.std.float() * scale)
    return torch.cat(means), torch.cat(stds)
