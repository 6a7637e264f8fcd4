"""The embedded pipeline: its denoiser, diffusers' SD3Transformer2DModel, small, and its parts in one."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from pretrain import clip
from pretrain.tokenizer import build_tokenizer
from pretrain.vae import LATENT_CHANNELS

# Of the sampling schedule, chosen on validation prompts among 1, 2 and 3.
SHIFT = 2.0
HEAD = 32  # width of an attention head of the denoiser


def build_transformer(width: int = 128, layers: int = 4) -> Any:
    """An untrained SD3Transformer2DModel on latents (16, 8, 8): 16 picture tokens, 18 caption tokens.

    diffusers hides its models from type checkers, so here and in `pretrain.vae` they are `Any`.
    """
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        attention_head_dim=HEAD,
        num_attention_heads=width // HEAD,
        joint_attention_dim=2 * clip.WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=2 * clip.WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )


def assemble_pipeline(
    towers: clip.Towers, denoiser: Any, autoencoder: Any, shift: float = SHIFT
) -> StableDiffusion3Pipeline:
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
    return assemble_pipeline(towers, build_transformer(), None)
