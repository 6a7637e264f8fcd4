"""Pictures to latents and back, by the pipeline's own autoencoder, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bench.api import DataError
from bench.device import memory_told
from bench.models.families.family import Family

CHUNK = 16  # pictures that one pass takes, at most: of small pictures the fastest measured on a CPU
PIXELS = 2**20  # of all pictures of one pass, at most: four of 512 x 512
_LESS = "say --runtime.frozen_weights bfloat16, or train in smaller micro-batches"


def _chunk(height: int, width: int) -> int:
    """Pictures of one pass, from their sides in pixels."""
    return max(1, min(CHUNK, PIXELS // (height * width)))


def pictures_at_once(family: Family, latent: tuple[int, ...]) -> int:
    """Pictures that one pass takes at most, from the shape (C, h, w) of a latent."""
    height, width = (side * family.pixels for side in latent[-2:])
    return _chunk(height, width)


@torch.no_grad()
def decode_latents(family: Family, z0: Tensor) -> np.ndarray:
    """Scaled latents (B, C, h, w) to pictures uint8 (B, H, W, 3)."""
    pictures = []
    for part in _decoded(family, z0):
        x = (part * 255).round().to(torch.uint8)
        pictures.append(x.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(pictures)


def decode_with_gradient(family: Family, z0: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) to pictures float32 (B, 3, H, W) in [0, 1], with gradient."""
    return torch.cat(list(_decoded(family, z0)))


def _decoded(family: Family, z0: Tensor) -> Iterator[Tensor]:
    """Pictures float32 (b, 3, H, W) in [0, 1], some at a time."""
    for part in z0.split(pictures_at_once(family, z0.shape[1:])):
        with memory_told(f"decoding {len(part)} pictures", _LESS):
            x = family.decode(family.parts.vae, part)
        yield (x.float() / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def encode_images(family: Family, images: np.ndarray, latent: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, *latent) float32 of the scaled latents of pictures uint8 (B, H, W, 3).

    Every pass has as many pictures, black ones where there are too few: convolutions of another shape may round
    differently, and a picture has to have the same bits whatever is encoded beside it.

    Raises:
        DataError: the pictures are of another size than those of such latents.
    """
    vae = family.parts.vae
    height, width = (side * family.pixels for side in latent[1:])
    if images.shape[1:] != (height, width, 3):
        raise DataError(
            f"pictures of shape {images.shape[1:]}: the model takes {(height, width, 3)}; resize them, or set "
            "runtime.resolution"
        )
    means, stds = [], []
    chunk = pictures_at_once(family, latent)
    padded = np.zeros((-(-len(images) // chunk) * chunk, height, width, 3), np.uint8)
    padded[: len(images)] = images
    for part in torch.from_numpy(padded).split(chunk):
        # Contiguous, because another memory layout rounds differently further on
        x = part.to(vae.device).permute(0, 3, 1, 2).contiguous()
        with memory_told(f"encoding {len(x)} pictures", _LESS):
            mean, std = family.encode(vae, (x.float() / 127.5 - 1).to(vae.dtype))
        means.append(mean)
        stds.append(std)
    return torch.cat(means)[: len(images)], torch.cat(stds)[: len(images)]
