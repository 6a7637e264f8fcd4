"""SOAR: self-correction on states that the model itself rolled out. arXiv 2604.12617."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from bench import flow
from bench.api import Batch, Env, Needs, Option
from methods.sft import SFT

__all__ = ["SOAR"]


class SOAR(SFT):
    """Flow matching, and beside it the way back to z0 from states one guided sampling step off the straight path.

    Symbols: s0, s1, s' are noise levels (B,); zhat is the state (B, *S) after the step; v_c and v_u are the conditional
    and unconditional velocities; lambda is `weight`, N `num_points`, P the paths, K `rollout_steps`.

    Source: SOAR, arXiv 2604.12617, algorithm 1; option defaults from Tencent-Hunyuan/HY-SOAR. Deviations from its code:
    auxiliary points go together as far as a micro-batch holds them, and backward at once, instead of one graph of all;
    v_c is computed once; states and targets stay float32; s' is given to the model as drawn, not floored to a timestep;
    s1 never reaches 0 (`flow.rollout_sigma`).
    """

    name: ClassVar[str] = "soar"
    paper: ClassVar[str] = "arXiv 2604.12617"
    needs: ClassVar[Needs] = Needs(data=True)
    small: ClassVar[Mapping[str, Any]] = {"num_points": 1, "stochastic_paths": 1}

    @dataclass(frozen=True)
    class Config:
        """The paper's settings."""

        num_points: Annotated[
            int, Option("N: auxiliary points per rollout path; 0 is SFT (paper: 6)", ge=0, le=1000)
        ] = 6
        weight: Annotated[float, Option("lambda: weight of the auxiliary loss; 0 is SFT (paper: 1)", ge=0)] = 1.0
        guidance: Annotated[float, Option("w: guidance scale of the rollout step (paper: 4.5)", ge=0, le=1000)] = 4.5
        rollout_steps: Annotated[int, Option("K: the rollout step is 1/K of the time (paper: 40)", ge=2, le=10**6)] = 40
        stochastic_paths: Annotated[int, Option("SDE paths beside the ODE one (paper: 0)", ge=0, le=1000)] = 0
        noise_level: Annotated[float, Option("noise level of stochastic paths (reference code: 0.5)", gt=0)] = 0.5
        fresh_noise: Annotated[bool, Option("re-noise with a new z1 per path instead of the sample's own")] = False

    config: Config

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update: (sum base + lambda sum aux) / (B + lambda N P B)."""
        c, paths = self.config, 1 + self.config.stochastic_paths
        if c.weight == 0 or c.num_points == 0:
            return super().step(env)
        count = env.batch_size * (1 + c.weight * c.num_points * paths)
        points = [(path, n) for path in range(paths) for n in range(c.num_points)]
        for batch in env.draw.batches():
            z1 = env.draw.noise(batch.index)
            s0 = env.draw.sigma(batch.index)
            z = flow.interpolate(batch.z0, z1, s0)
            v_c = env.model.velocity(z, s0, batch.cond)
            base = flow.per_sample_mse(v_c, flow.velocity_target(batch.z0, z1))
            env.backward({"base": (1.0, base)}, count)

            v_cfg = self.guided(env, z, s0, v_c.detach(), batch)
            s1 = flow.rollout_sigma(s0, env.model.shift, c.rollout_steps)
            zhat = [self.rollout(env, z, v_cfg, s0, s1, batch, path) for path in range(paths)]
            z1_of = [env.draw.noise(batch.index, f"z1.path{path}") if c.fresh_noise else z1 for path in range(paths)]
            together = max(1, env.micro_batch // len(batch))
            for first in range(0, len(points), together):
                sigmas, states, targets = [], [], []
                for path, n in points[first : first + together]:
                    s_prime = s1 + (1 - s1) * env.draw.uniform(batch.index, f"sigma.path{path}.point{n}")
                    z_prime = flow.renoise(zhat[path], z1_of[path], s1, s_prime)
                    sigmas.append(s_prime)
                    states.append(z_prime)
                    targets.append(flow.correction_target(z_prime, batch.z0, s_prime))
                v = env.model.velocity(torch.cat(states), torch.cat(sigmas), batch.cond.cat([batch.cond] * len(states)))
                env.backward({"aux": (c.weight, flow.per_sample_mse(v, torch.cat(targets)))}, count)
        return env.update()

    @torch.no_grad()
    def guided(self, env: Env, z: Tensor, s0: Tensor, v_c: Tensor, batch: Batch) -> Tensor:
        """v_cfg = sg[v_u + w (v_c - v_u)] (B, *S) at z; v_c is at hand, so only the unconditional pass is added."""
        if self.config.guidance == 1:
            return v_c
        return env.model.guide(env.model.velocity(z, s0, env.model.null(batch.cond)), v_c, self.config.guidance)

    @torch.no_grad()
    def rollout(self, env: Env, z: Tensor, v_cfg: Tensor, s0: Tensor, s1: Tensor, batch: Batch, path: int) -> Tensor:
        """zhat (B, *S) at s1: an Euler step on path 0, a Flow-GRPO SDE step on the others."""
        if path == 0:
            return flow.euler_step(z, v_cfg, s0, s1)
        sigma_max = flow.sigma_schedule(self.config.rollout_steps, env.model.shift)[1]
        mean, std = flow.sde_mean_std(z, v_cfg, s0, s1, self.config.noise_level, sigma_max)
        return mean + std * env.draw.noise(batch.index, f"sde.path{path}")
