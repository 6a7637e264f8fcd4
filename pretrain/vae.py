"""The autoencoder: diffusers' AutoencoderKL, factor 8 and 16 channels, first whole, then its decoder alone.

Latents are made smooth enough to model by noise of a fixed size on them instead of by a learned posterior: the encoder
gives a constant log-variance, and the penalty keeps the means at unit scale, so the noise cannot be outgrown. The
decoder then also forgives the small errors of a diffusion model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from pretrain.data import TrainingPictures, to_images, to_tensor
from pretrain.loop import PretrainingLoop, TrainingPlan, TrainingStep, averaged_weights
from pretrain.muon import Muon, split_parameters

LATENT_CHANNELS = 16
NOISE = 0.1  # deviation of the posterior, against unit latents
DECODER_NOISE = 0.35  # largest deviation that the decoder alone is trained with
WEAR_NOISE = 0.7  # largest deviation that scorers are trained with; at 0.5, 94 % of pictures stay right
# Colours carry what captions speak of, grain and clutter are grey: chromatic pixels weigh up to so much more.
CHROMA_WEIGHT = 4.0
EDGE_WEIGHT = 1.0
SCALE_WEIGHT = 0.01


def build_vae(channels: tuple[int, ...] = (16, 16, 32, 64), groups: int = 4) -> Any:
    """An untrained AutoencoderKL, near-isometric: residual branches start at zero, other convolutions orthogonal.

    With diffusers' default initialisation the first 500 steps learn nothing but the mean picture.
    """
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=groups,
        sample_size=8 * 2 ** (len(channels) - 1),
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.endswith("conv2"):
                nn.init.zeros_(module.weight)
            elif name.endswith("conv1"):
                nn.init.kaiming_normal_(module.weight)
            else:
                nn.init.orthogonal_(module.weight)
            assert module.bias is not None  # diffusers' convolutions all have one
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(0.3)
        vae.encoder.conv_out.weight[LATENT_CHANNELS:] = 0.0
        vae.encoder.conv_out.bias[LATENT_CHANNELS:] = 2 * math.log(NOISE)
    return vae


def picture_loss(made: Tensor, true: Tensor) -> Tensor:
    """Weighted L1 on pixels and on their differences, plus L2, of (B, 3, H, W) in [-1, 1]."""
    chroma = (true.amax(1, keepdim=True) - true.amin(1, keepdim=True)) / 2
    weight = 1 + CHROMA_WEIGHT * chroma
    error = made - true
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    return (weight * (error.abs() + error.square())).mean() + EDGE_WEIGHT * (across.mean() + down.mean())


class WholeLoss:
    """Reconstruction of training pictures through noised latents."""

    def __init__(self, vae: Any, pictures: TrainingPictures) -> None:
        self.vae, self.pictures = vae, pictures

    def __call__(self, step: TrainingStep) -> dict[str, Tensor]:
        true = to_tensor(self.pictures[step.indices(len(self.pictures)).numpy()])
        mean = self.encode(true)
        noise = torch.randn(mean.shape, generator=step.generator)
        loss = picture_loss(self.vae.decode(mean + self.deviation(step) * noise).sample, true)
        outgrown = (mean.square().mean(dim=(0, 2, 3)) - 1).clamp(min=0).mean()
        return {"loss": loss + SCALE_WEIGHT * outgrown, "rms": mean.detach().square().mean().sqrt()}

    def deviation(self, step: TrainingStep) -> Tensor | float:
        """Deviation of the noise on the latents, broadcast over (B, 16, H/8, W/8)."""
        return NOISE

    def encode(self, true: Tensor) -> Tensor:
        """Latent means (B, 16, H/8, W/8)."""
        return self.vae.encode(true).latent_dist.mean


class DecoderLoss(WholeLoss):
    """The same with a frozen encoder: latents encoded meanwhile stay valid.

    The noise varies up to several times the posterior's, which is nearer to the errors of a small diffusion model.
    """

    def deviation(self, step: TrainingStep) -> Tensor | float:
        """One deviation a picture, uniform up to the largest."""
        return DECODER_NOISE * torch.rand(step.batch, 1, 1, 1, generator=step.generator)

    def encode(self, true: Tensor) -> Tensor:
        """Latent means without gradient."""
        with torch.no_grad():
            return super().encode(true)


def train_whole(folder: Path, log: Path, plan: TrainingPlan, pictures: TrainingPictures, vae: Any) -> bool:
    """Train encoder and decoder; whether the plan's end was reached."""
    optimizer = Muon(*split_parameters(vae, ("encoder.conv_in", "encoder.conv_out", "decoder.conv_out")), plan.lr)
    # The rows that give the log-variance get no gradient, as the loss uses the means alone; without decay they stay.
    return PretrainingLoop("vae", folder, log, plan, vae, optimizer).run(WholeLoss(vae, pictures))


def train_decoder(folder: Path, log: Path, plan: TrainingPlan, pictures: TrainingPictures, vae: Any) -> bool:
    """Go on with the decoder of a trained autoencoder; whether the plan's end was reached."""
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    optimizer = Muon(*split_parameters(vae, ("decoder.conv_out",)), plan.lr)
    return PretrainingLoop("decoder", folder, log, plan, vae, optimizer).run(DecoderLoss(vae, pictures))


def load_vae(folder: Path, vae: Any, *, decoder: bool = True) -> Any:
    """The trained weights, frozen, with shift and scale: those of the longest-trained decoder there is."""
    path = folder / "decoder.safetensors"
    if not (decoder and path.exists()):
        path = folder / "vae.safetensors"
    vae.load_state_dict(averaged_weights(path))
    return vae.requires_grad_(False).eval()


class Wear:
    """Sends every fourth picture through a trained autoencoder, with noise on its latents.

    Scorers that only ever saw clean renders misjudge what a small diffusion model draws.
    """

    every = 4

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    @torch.no_grad()
    def __call__(self, images: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Pictures uint8 (B, H, W, 3), a share of them worn; each by noise of its own deviation in [0, WEAR_NOISE)."""
        latents = self.vae.encode(to_tensor(images[:: self.every])).latent_dist.mean
        deviation = WEAR_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
        latents = latents + deviation * torch.randn(latents.shape, generator=generator)
        worn = images.copy()
        worn[:: self.every] = to_images(self.vae.decode(latents).sample)
        return worn


@torch.no_grad()
def reconstruct(vae: Any, images: np.ndarray, batch: int = 50) -> np.ndarray:
    """Pictures uint8 (B, H, W, 3) through encoder (means) and decoder and back to uint8."""
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    return np.concatenate([to_images(vae.decode(vae.encode(to_tensor(p)).latent_dist.mean).sample) for p in parts])
