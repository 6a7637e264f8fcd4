"""Latents as tokens: patches of 2 x 2, as FLUX.1's pipeline packs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.models.families.family import Config, Family, Sides

if TYPE_CHECKING:
    from torch import Tensor


def pack(x: Tensor) -> Tensor:
    """Latents (B, C, h, w) to tokens (B, (h/2)(w/2), 4 C)."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h // 2 * (w // 2), 4 * c)


def unpack(tokens: Tensor, h: int, w: int) -> Tensor:
    """The inverse of `pack`."""
    b, _, c = tokens.shape
    return tokens.reshape(b, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, h, w)


class PackedFamily(Family):
    """A family whose denoiser takes such tokens. Positions are rotary: there is no largest side."""

    @classmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """As `Family.sides`; 128 latents a side by itself, as diffusers' pipelines have it."""
        pixels = cls.pixels_of(vae)
        return Sides(2 * pixels, None, 128 * pixels)

    @property
    def channels(self) -> int:
        """Of a latent that is not packed."""
        return int(self.parts.transformer.config.in_channels) // 4
