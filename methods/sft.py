"""Supervised fine-tuning: flow matching on curated data."""

from __future__ import annotations

from typing import ClassVar

from bench import flow
from bench.api import Env, Method, Needs

__all__ = ["SFT"]


class SFT(Method):
    """Flow matching on clean latents: the loss |v(z) - (z1 - z0)|^2, mean over dimensions and samples.

    Source: SD3, arXiv 2403.03206, eq. 14 with the rectified-flow weighting; sigma is logit-normal (`env.draw.sigma`).
    """

    name: ClassVar[str] = "sft"
    paper: ClassVar[str] = "arXiv 2209.03003; arXiv 2403.03206"
    needs: ClassVar[Needs] = Needs(data=True)

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update on one batch of clean latents."""
        for batch in env.draw.batches():
            z1 = env.draw.noise(batch.index)
            sigma = env.draw.sigma(batch.index)
            z = flow.interpolate(batch.z0, z1, sigma)
            v = env.model.velocity(z, sigma, batch.cond)
            base = flow.per_sample_mse(v, flow.velocity_target(batch.z0, z1))
            env.backward({"base": (1.0, base)}, count=env.batch_size)
        return env.update()
