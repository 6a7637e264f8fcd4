"""The parts of the embedded pipeline, put together."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from pretrain import clip, network
from pretrain.tokenizer import build_tokenizer

# Of the sampling schedule, chosen on validation prompts among 1, 2 and 3.
SHIFT = 2.0


def assemble(towers: clip.Towers, denoiser: Any, autoencoder: Any, shift: float = SHIFT) -> StableDiffusion3Pipeline:
    """The pipeline of these parts, without a third text encoder."""
    return StableDiffusion3Pipeline(
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=autoencoder,
        text_encoder=clip.first_encoder(towers),
        tokenizer=build_tokenizer(),
        text_encoder_2=towers.second,
        tokenizer_2=build_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def text_pipeline(towers: clip.Towers) -> StableDiffusion3Pipeline:
    """A pipeline that is only good for `encode_prompt`."""
    return assemble(towers, network.build_transformer(), None)
