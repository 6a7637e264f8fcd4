"""Pictures as the moments of their latents' posterior, of which every draw stays random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.datasets.buckets import Size
from bench.datasets.world import Candidates
from bench.models.autoencoder import pictures_at_once
from bench.models.encoding_cache.cached_encoder import CachedEncoder
from bench.models.encoding_cache.keys import entry_key
from bench.models.encoding_cache.store import Entry

if TYPE_CHECKING:
    from bench.models.policy import PipelinePolicy


def moments_of(
    policy: PipelinePolicy,
    digests: Sequence[str],
    pixels: Callable[[np.ndarray], np.ndarray],
    size: Size | None = None,
    *,
    share: float = 1.0,
) -> CachedEncoder[int]:
    """The latents of pictures by their number: `mean` and `std` (C, h, w) float32, scaled as the policy's own.

    `digests` name the pictures as they are prepared; `pixels` reads some of them, uint8 (n, H, W, 3), by their numbers.
    `size` (W, H) is theirs; None is the model's own. `share` is that of the memory which holds what lies on disk too.
    """
    latent = policy.latent_of(size)
    chunk = pictures_at_once(policy.family, latent)
    encoder = f"{policy.vae_identity} {latent} {chunk}"

    def encode(numbers: Sequence[int]) -> Iterator[Entry]:
        for start in range(0, len(numbers), chunk):
            mean, std = policy.encode_pictures(pixels(np.array(numbers[start : start + chunk])), size)
            for m, s in zip(mean.cpu(), std.cpu(), strict=True):
                yield {"mean": m.clone(), "std": s.clone()}

    return CachedEncoder("pictures", lambda number: entry_key(encoder, digests[number]), encode, policy.store, share)


def stacked(pictures: CachedEncoder[int], numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n, C, h, w) of some pictures."""
    entries = pictures(numbers)
    return torch.stack([e["mean"] for e in entries]), torch.stack([e["std"] for e in entries])


def digests_of(candidates: Candidates, numbers: Sequence[int]) -> list[str]:
    """What names some of the candidates as they are prepared: the world's own names for them, or hashes of pixels."""
    if candidates.digests is not None:
        return [candidates.digests[number] for number in numbers]
    return [pixel_digest(candidates.images[int(number)]) for number in numbers]


def pixel_digest(picture: np.ndarray) -> str:
    """32 hex digits of a picture uint8 (H, W, 3)."""
    whole = blake2b(f"{picture.shape} ".encode(), digest_size=16)
    whole.update(np.ascontiguousarray(picture).data)
    return whole.hexdigest()
