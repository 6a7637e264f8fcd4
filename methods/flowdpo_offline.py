"""Flow-DPO on the pairs of a data set: direct preference optimisation, offline. arXiv 2311.12908, arXiv 2501.13918."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from bench import flow
from bench.api import Env, Method, Needs, Option, PluginError

__all__ = ["FlowDPOOffline"]


class FlowDPOOffline(Method):
    """The chosen picture of each pair against the rejected one: -log S(-b/2 [(e_w - e_w,ref) - (e_l - e_l,ref)]).

    With one sigma and z1 for both. It makes no picture and asks no reward: what it learns is what the pairs say, and
    how far it goes is held by the reference alone.

    Source: Diffusion-DPO, arXiv 2311.12908, for flow models Flow-DPO, arXiv 2501.13918, without its weight
    (1 - sigma)^2. Deviation: e is a mean over dimensions, so that b is D times smaller than with a sum.
    """

    name: ClassVar[str] = "flowdpo-offline"
    paper: ClassVar[str] = "arXiv 2311.12908; arXiv 2501.13918"
    needs: ClassVar[Needs] = Needs(data=True, pairs=True, reference=True)

    @dataclass(frozen=True)
    class Config:
        """As that of `flowdpo`, whose pairs are its own samples."""

        beta: Annotated[float, Option("b [public code: 100 to 2000 at D = 65,536; scale by D^1/2]", gt=0)] = 12.5

    config: Config

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update on one batch of pairs."""
        for batch in env.draw.batches():
            if batch.rejected is None:
                raise PluginError(f"{self.name} was given pictures without rejected ones: it trains on pairs alone")
            z0 = torch.cat([batch.z0, batch.rejected])
            z1 = torch.cat(2 * [env.draw.noise(batch.index)])
            sigma = torch.cat(2 * [env.draw.sigma(batch.index)])
            cond = batch.cond.cat(2 * [batch.cond])
            z, target = flow.interpolate(z0, z1, sigma), flow.velocity_target(z0, z1)
            e_ref = flow.per_sample_mse(env.model.reference_velocity(z, sigma, cond), target)
            gain = flow.per_sample_mse(env.model.velocity(z, sigma, cond), target) - e_ref
            chosen, rejected = gain.chunk(2)
            loss = flow.preference_loss(chosen, rejected, self.config.beta)
            env.backward({"dpo": (1.0, loss)}, count=env.batch_size)
        return env.update()
