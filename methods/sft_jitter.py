"""Control: SOAR with its displacement replaced by noise of equal norm."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench import flow
from bench.api import Batch, Env, Needs
from methods.soar import SOAR

__all__ = ["SFTJitter"]


class SFTJitter(SOAR):
    """SOAR from states as far off the straight path as the model's own, in a direction of chance.

    With z_s1 the state of the straight path, zhat - z_s1 is SOAR's displacement; here it is |zhat - z_s1| g/|g| with g
    standard normal. Draws, noise levels, targets and passes are SOAR's: what SOAR has beyond it is owed to where the
    model goes wrong, not to training off the path. So the rollout is still made: its length is needed.

    Source: a control of SOAR, arXiv 2604.12617, step 2.
    """

    name: ClassVar[str] = "sft-jitter"
    paper: ClassVar[str] = "none: a control of arXiv 2604.12617"
    needs: ClassVar[Needs] = Needs(data=True)

    @torch.no_grad()
    def rollout(self, env: Env, z: Tensor, v_cfg: Tensor, s0: Tensor, s1: Tensor, batch: Batch, path: int) -> Tensor:
        """zhat (B, *S) at s1, its displacement turned to a direction of chance."""
        straight = flow.interpolate(batch.z0, env.draw.noise(batch.index), s1)
        displacement = super().rollout(env, z, v_cfg, s0, s1, batch, path) - straight
        return straight + flow.turned(displacement, env.draw.noise(batch.index, f"jitter.path{path}"))
