"""DRaFT-K: the gradient of the reward through the last sampling steps. arXiv 2309.17400."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from bench import flow
from bench.api import Condition, ConfigError, Env, Method, Needs, Option

__all__ = ["DRaFT"]


class DRaFT(Method):
    """Minus the reward of own samples, whose gradient goes through the decoder and the last K steps of sampling.

    The steps before them have no gradient. K = 1 is DRaFT-1, K = `sampling_steps` the whole of DRaFT. The reward is a
    learned one, and this the shortest way into what it does not know: look at what it stands for.

    Source: DRaFT, arXiv 2309.17400 (DRaFT-K). Deviations: Euler steps of a flow model, where the paper has
    DDIM; latents are decoded to pictures in [0, 1], cut there, where no gradient is left.
    """

    name: ClassVar[str] = "draft"
    paper: ClassVar[str] = "arXiv 2309.17400"
    needs: ClassVar[Needs] = Needs(reward=True, reward_gradient=True)
    small: ClassVar[Mapping[str, Any]] = {"prompts": 3, "sampling_steps": 3, "last_steps": 2}

    @dataclass(frozen=True)
    class Config:
        """The paper's values (Stable Diffusion 1.4) in brackets."""

        prompts: Annotated[int, Option("prompts per update, a picture each [4]", ge=1, le=10**6)] = 16
        sampling_steps: Annotated[int, Option("T: steps of sampling [50]", ge=1, le=10**4)] = 10
        last_steps: Annotated[int, Option("K: steps that the gradient goes through, at most T [1]", ge=1)] = 1
        guidance: Annotated[float, Option("guidance scale of sampling [7.5]", ge=0, le=1000)] = 1.0

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.last_steps > config.sampling_steps:
            raise ConfigError(
                f"draft.last_steps {config.last_steps}: expected at most {config.sampling_steps}, draft.sampling_steps"
            )

    @property
    def prompts_at_once(self) -> int:
        """`prompts`."""
        return self.config.prompts

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update: the mean of -r(decode(z0)) over new samples."""
        prompts, index = env.draw.prompts(self.config.prompts)
        cond = env.model.encode([p.text for p in prompts])
        for first in range(0, len(prompts), env.micro_batch):
            rows = slice(first, first + env.micro_batch)
            z0 = self.sample(env, env.draw.noise(index[rows], "rollout"), cond[rows])
            some = prompts[rows]
            pictures = env.model.decode_with_gradient(z0)
            reward = env.score_with_gradient(pictures, [p.text for p in some], [p.metadata for p in some])
            env.backward({"negative_reward": (1.0, -reward)}, count=self.config.prompts)
        return env.update()

    def sample(self, env: Env, x: Tensor, cond: Condition) -> Tensor:
        """Clean latents (b, *S) from noise (b, *S), with gradient through the last K steps."""
        steps = list(pairwise(env.model.sigmas(self.config.sampling_steps).to(x.device)))
        for number, (s, s_next) in enumerate(steps):
            with torch.set_grad_enabled(number >= len(steps) - self.config.last_steps):
                v = env.model.guided_velocity(x, s.expand(len(x)), cond, self.config.guidance)
                x = flow.euler_step(x, v, s, s_next)
        return x
