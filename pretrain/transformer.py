"""The diffusion transformer: diffusers' SD3Transformer2DModel, trained by flow matching on encoded pictures.

Source: Stable Diffusion 3, arXiv 2403.03206: conditional flow matching (equations 12 to 14) with logit-normal noise
levels (equation 19; location 0.7 where SD3 has 0, scale 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain import encode
from pretrain.encode import Encoded
from pretrain.loop import PretrainingLoop, TrainingPlan, TrainingStep, averaged_weights
from pretrain.muon import Muon, split_parameters
from pretrain.pipeline import build_transformer
from pretrain.vae import NOISE

DROPOUT = 0.1  # share of captions replaced by the empty one, for guidance
# Location of the logit-normal noise levels. The decoder still forgives noise of deviation 0.5 (94 % of pictures stay
# right), so what is decided below sigma 0.3 matters little, and training dwells above.
LOCATION = 0.7
# The modulations are wide and see one vector a picture: orthogonalising them costs more than it brings.
OUTER = ("pos_embed", "proj_out", "time_text_embed", "norm_out", "norm1.linear", "norm1_context.linear")


class FlowLoss:
    """Mean squared error of the velocity z1 - z0 at logit-normal noise levels."""

    def __init__(self, model: Any, data: Encoded, posterior: float) -> None:
        self.model, self.data, self.posterior = model, data, posterior

    def indices(self, step: TrainingStep) -> Tensor:
        """Picture numbers (B,)."""
        return step.indices(len(self.data.latents))

    def __call__(self, step: TrainingStep) -> dict[str, Tensor]:
        generator = step.generator
        indices = self.indices(step)
        z0 = self.data.latents[indices].float()
        z0 = z0 + self.posterior * torch.randn(z0.shape, generator=generator)
        z1 = torch.randn(z0.shape, generator=generator)
        # Stratified, so that a small batch covers all noise levels.
        places = (torch.arange(step.batch) + torch.rand(step.batch, generator=generator)) / step.batch
        sigma = torch.sigmoid(LOCATION + torch.special.ndtri(places.clamp(1e-6, 1 - 1e-6)))
        captions = self.data.owner[indices].long()
        captions = captions.masked_fill(torch.rand(step.batch, generator=generator) < DROPOUT, 0)
        s = sigma[:, None, None, None]
        velocity = self.model(
            hidden_states=(1 - s) * z0 + s * z1,
            encoder_hidden_states=self.data.tokens[captions].float(),
            pooled_projections=self.data.pooled[captions].float(),
            timestep=1000 * sigma,
        ).sample
        error = (velocity - (z1 - z0)).square().mean(dim=(1, 2, 3))
        # The loss as it would be at SD3's location 0, by importance weights, to compare runs of different locations.
        standard = torch.exp(LOCATION**2 / 2 - LOCATION * torch.logit(sigma)) * error.detach()
        return {"loss": error.mean(), "standard_loss": standard.mean()}


def train_transformer(folder: Path, log: Path, plan: TrainingPlan, width: int = 128, layers: int = 4) -> bool:
    """Train on what `encode` wrote; whether the plan's end was reached."""
    model = build_transformer(width, layers)
    optimizer = Muon(*split_parameters(model, OUTER), plan.lr, scale=0.3, betas=(0.9, 0.98), weight_decay=0.01)
    loss = FlowLoss(model, encode.load_encoded(folder), NOISE * encode.latent_scaling(folder)["scaling_factor"])
    return PretrainingLoop("transformer", folder, log, plan, model, optimizer).run(loss, every=100)


def load_transformer(folder: Path, width: int = 128, layers: int = 4) -> Any:
    """The trained weights, averaged, frozen."""
    model = build_transformer(width, layers)
    model.load_state_dict(averaged_weights(folder / "transformer.safetensors"))
    return model.requires_grad_(False).eval()
