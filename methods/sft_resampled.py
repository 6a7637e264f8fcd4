"""Control: SOAR's extra draws and noise levels, without its rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from bench import flow
from bench.api import Env, Needs, Option
from methods.sft import SFT

__all__ = ["SFTResampled"]


class SFTResampled(SFT):
    """SFT at s0 and, with the same z1, at `num_points` further noise levels s' ~ U[s1, 1] of each sample.

    s0, s1 and s' are drawn as SOAR draws them, number by number, and losses weigh as there: what SOAR has beyond it is
    owed to its rollout, not to N more draws at higher noise levels. Every state is on the straight path and every
    target is z1 - z0. It passes no unconditional branch, so its update is cheaper than SOAR's.

    Source: the control that SOAR, arXiv 2604.12617, lacks; algorithm 1 with zhat = z_s1.
    """

    name: ClassVar[str] = "sft-resampled"
    paper: ClassVar[str] = "none: a control of arXiv 2604.12617"
    needs: ClassVar[Needs] = Needs(data=True)
    small: ClassVar[Mapping[str, Any]] = {"num_points": 1}

    @dataclass(frozen=True)
    class Config:
        """Those of SOAR that mean the same here."""

        num_points: Annotated[
            int, Option("N: further noise levels per sample; 0 is SFT (as SOAR: 6)", ge=0, le=1000)
        ] = 6
        weight: Annotated[float, Option("lambda: weight of their loss; 0 is SFT (as SOAR: 1)", ge=0)] = 1.0
        rollout_steps: Annotated[
            int, Option("K: the lowest level is 1/K of the time below the sample's own (as SOAR: 40)", ge=2, le=10**6)
        ] = 40

    config: Config

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update: (sum base + lambda sum aux) / (B + lambda N B)."""
        c = self.config
        if c.weight == 0 or c.num_points == 0:
            return super().step(env)
        count = env.batch_size * (1 + c.weight * c.num_points)
        for batch in env.draw.batches():
            z1, s0 = env.draw.noise(batch.index), env.draw.sigma(batch.index)
            target = flow.velocity_target(batch.z0, z1)
            v = env.model.velocity(flow.interpolate(batch.z0, z1, s0), s0, batch.cond)
            env.backward({"base": (1.0, flow.per_sample_mse(v, target))}, count)

            s1 = flow.rollout_sigma(s0, env.model.shift, c.rollout_steps)
            together = max(1, env.micro_batch // len(batch))
            for first in range(0, c.num_points, together):
                points = range(first, min(first + together, c.num_points))
                levels = [s1 + (1 - s1) * env.draw.uniform(batch.index, f"sigma.path0.point{n}") for n in points]
                states = torch.cat([flow.interpolate(batch.z0, z1, s) for s in levels])
                v = env.model.velocity(states, torch.cat(levels), batch.cond.cat([batch.cond] * len(levels)))
                aux = flow.per_sample_mse(v, target.repeat(len(levels), *[1] * (target.dim() - 1)))
                env.backward({"aux": (c.weight, aux)}, count)
        return env.update()
