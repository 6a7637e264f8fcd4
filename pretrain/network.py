"""The network of the embedded denoiser: diffusers' SD3Transformer2DModel, small."""

from __future__ import annotations

from typing import Any

from diffusers import SD3Transformer2DModel

from pretrain.clip import WIDTH as TEXT_WIDTH
from pretrain.vae import LATENT_CHANNELS

HEAD = 32


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
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
