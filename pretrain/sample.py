"""Samples pictures from a pipeline with classifier-free guidance, by Euler's method on its own scheduler's schedule."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.rng import normal
from pretrain.data import to_images
from pretrain.encode import encode_captions


@torch.no_grad()
def sample_pictures(
    pipeline: Any, prompts: Sequence[str], guidance: float, *, steps: int = 16, seed: int = 0, batch: int = 64
) -> np.ndarray:
    """One picture uint8 (64, 64, 3) a prompt; the noise of prompt i depends on (seed, i) alone."""
    parts = []
    for first in range(0, len(prompts), batch):
        chosen = prompts[first : first + batch]
        noise = normal(seed, "pretrain-sample", range(first, first + len(chosen)), (16, 8, 8))
        parts.append(_sample_batch(pipeline, chosen, torch.from_numpy(noise), guidance, steps))
    return np.concatenate(parts)


def _sample_batch(pipeline: Any, prompts: Sequence[str], z: torch.Tensor, guidance: float, steps: int) -> np.ndarray:
    tokens, pooled = encode_captions(pipeline, [*prompts, *([""] if guidance != 1 else [])])
    count = len(prompts)
    if guidance != 1:
        tokens = torch.cat([tokens[:count], tokens[count:].expand(count, -1, -1)])
        pooled = torch.cat([pooled[:count], pooled[count:].expand(count, -1)])
    pipeline.scheduler.set_timesteps(steps)
    sigmas = pipeline.scheduler.sigmas
    for sigma, following in itertools.pairwise(sigmas):
        inputs = torch.cat([z, z]) if guidance != 1 else z
        velocity = pipeline.transformer(
            hidden_states=inputs,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=(1000 * sigma).expand(len(inputs)),
        ).sample
        if guidance != 1:
            with_caption, without = velocity.chunk(2)
            velocity = without + guidance * (with_caption - without)
        z = z + (following - sigma) * velocity
    config = pipeline.vae.config
    return to_images(pipeline.vae.decode(z / config.scaling_factor + config.shift_factor).sample)
