"""Models of the velocity: what an environment asks of them, and guidance over any. Imports no model library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bench.api import Condition, ConfigError


class VelocityField(Protocol):
    """A model of the velocity."""

    def velocity(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        """Predicted velocity (B, *S) float32 at x (B, *S), sigma (B,) in [0, 1]."""


class Reference(VelocityField, Protocol):
    """What an environment needs of the frozen model at stage entry."""

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name, which have to stay as they are."""


class Guide(Protocol):
    """What guidance takes beside a velocity."""

    def null(self, cond: Any) -> Any:
        """The empty prompt's conditioning, as many rows as `cond` has."""

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """The guided velocity (B, *S) of the unconditional and the conditional one."""


class Policy(VelocityField, Guide, Protocol):
    """What an environment needs of its policy: pipelines and the closed-form mixture both are one.

    `shift` is that of the noise schedule.
    """

    device: torch.device
    shift: float

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """S, the shape of one clean latent."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Text to conditioning; the empty text is the unconditional one."""

    def sigmas(self, steps: int) -> Tensor:
        """The sampling schedule (steps + 1,) float32, from 1 down to exactly 0."""

    def decode(self, z0: Tensor) -> np.ndarray:
        """Latents (B, *S) to pictures uint8 (B, H, W, 3)."""

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """Latents (B, *S) to pictures float32 (B, 3, H, W) in [0, 1]."""


def branches(velocity: Any, null: Any, x: Tensor, sigma: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """The unconditional and the conditional velocity by any velocity function, in one pass."""
    both = velocity(torch.cat([x, x]), torch.cat([sigma, sigma]), cond.cat([null(cond), cond]))
    v_u, v_c = both.chunk(2)
    return v_u, v_c


def guided(model: Guide, velocity: Any, x: Tensor, sigma: Tensor, cond: Any, scale: float) -> Tensor:
    """Classifier-free guidance as the model has it over any velocity function, in one pass; v_c where scale is 1."""
    if scale == 1.0:
        return velocity(x, sigma, cond)
    if scale < 0:
        raise ConfigError(f"guidance scale {scale}: expected 0 or more")
    return model.guide(*branches(velocity, model.null, x, sigma, cond), scale)
