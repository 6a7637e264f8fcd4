"""What methods share that learn on the forward process from their own samples: groups of them, scored and noised."""

from __future__ import annotations

import abc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench import flow
from bench.api import Condition, ConfigError, Env, Method, Needs, Option, PluginError, Rollouts
from methods._groups import Groups

Terms = dict[str, tuple[float, Tensor]]
Logs = dict[str, Tensor]


@dataclass(frozen=True)
class Noised:
    """Own samples: rows (b,) of the rollouts, z and its target z1 - z0 (b, *S), sigma (b,), and its number (b,)."""

    rows: Tensor
    z: Tensor
    target: Tensor
    sigma: Tensor
    level: Tensor
    cond: Condition


class OwnSamples(Method):
    """Samples groups of pictures of one prompt by the ODE, scores them, and trains on their clean latents, noised.

    Groups whose rewards are all equal teach nothing and are left out. An update takes whole groups, and every sample of
    them at `levels` noise levels, drawn as in pre-training (`env.draw.sigma`), each with a z1 of its own.
    """

    needs: ClassVar[Needs] = Needs(reward=True)
    small: ClassVar[Mapping[str, Any]] = {"num_groups": 2, "num_generations": 3, "sampling_steps": 2, "levels": 1}

    @dataclass(frozen=True)
    class Config:
        """Names as in trl and Flow-GRPO."""

        num_groups: Annotated[int, Option("prompts per rollout phase", ge=1, le=10**6)] = 4
        num_generations: Annotated[int, Option("pictures per prompt", ge=2, le=10**6)] = 24
        updates: Annotated[int, Option("updates that a rollout phase is cut into", ge=1, le=10**6)] = 1
        sampling_steps: Annotated[int, Option("T: steps of training-time sampling", ge=1, le=10**4)] = 10
        guidance: Annotated[float, Option("guidance scale of sampling", ge=0, le=1000)] = 1.0
        levels: Annotated[int, Option("noise levels at which each sample trains", ge=1, le=10**4)] = 2

    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.updates > config.num_groups:
            raise ConfigError(
                f"{self.name}.updates {config.updates}: expected at most {config.num_groups}, {self.name}.num_groups: "
                "an update takes whole groups"
            )

    @abc.abstractmethod
    def terms(self, env: Env, noised: Noised, rollouts: Rollouts) -> tuple[Terms, Logs]:
        """The weighted losses of noised samples, each (b,), and what to log of them."""

    def sampling_velocity(self, env: Env, x: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        """The velocity (b, *S) that samples are made with."""
        return env.model.guided_velocity(x, sigma, cond, self.config.guidance)

    def chosen(self, rewards: Tensor) -> Tensor:
        """Which samples (groups, size) of the groups of rewards (groups, size) are trained on, as many of each.

        A sample whose reward is NaN, since the reward abstained, is left out whatever this says.
        """
        return torch.ones_like(rewards, dtype=torch.bool)

    def advantages(self, rewards: Tensor) -> Tensor:
        """What the loss gets of rewards (groups, size)."""
        return flow.group_advantages(rewards)

    @property
    def prompts_at_once(self) -> int:
        """`num_groups`."""
        return int(self.config.num_groups)

    @torch.no_grad()
    def collect(self, env: Env) -> Rollouts:
        """Samples, their global `index`, their `advantage`, and the number of their `group` among those kept."""
        c, latents = self.config, []
        groups = Groups.drawn(env, c.num_groups, c.num_generations)

        def sample(rows: slice) -> Tensor:
            latents.append(self.sample(env, groups.index[rows], groups.cond[rows]))
            return latents[-1]

        r = groups.scored(env, sample)
        varied = flow.varied_groups(r)
        kept = varied[:, None] & self.chosen(r) & ~r.isnan()
        number = (varied.cumsum(0) - 1)[:, None].expand_as(r)
        own = torch.from_numpy(groups.index % kept.numel()).to(r.device)
        mine = kept.flatten()[own]
        tensors = {
            "z0": torch.cat(latents),
            "index": torch.from_numpy(groups.index).to(r.device),
            "advantage": self.advantages(r).flatten()[own],
            "group": number.flatten()[own],
        }
        rows = mine.nonzero().flatten()
        tensors = {name: t[rows] for name, t in tensors.items()}
        return Rollouts(tensors, groups.cond[rows], c.updates, flow.reward_metrics(r))

    def sample(self, env: Env, index: np.ndarray, cond: Condition) -> Tensor:
        """Clean latents (b, *S) of new samples by the Euler ODE sampler."""
        x = env.draw.noise(index, "rollout")
        for s, s_next in pairwise(env.model.sigmas(self.config.sampling_steps).to(x.device)):
            x = flow.euler_step(x, self.sampling_velocity(env, x, s.expand(len(x)), cond), s, s_next)
        return x

    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update on the groups of this update: the mean over samples and noise levels."""
        rollouts = self.gathered(env)
        part = (rollouts.tensors["group"] % self.config.updates == rollouts.used).nonzero().flatten()
        count = len(env.gather(part)) * self.config.levels
        if count == 0:
            return env.skip_update("every group's rewards are all equal, so there is nothing to learn from")
        log: dict[str, list[Tensor]] = defaultdict(list)
        for terms, logs in self.parts(env, rollouts, part):
            env.backward(terms, count)
            for name, values in logs.items():
                log[name].append(values)
        return env.update({name: torch.cat(values) for name, values in log.items()})

    def gathered(self, env: Env) -> Rollouts:
        """The rollouts.

        Raises:
            PluginError: there are none yet.
        """
        if env.rollouts is None:
            raise PluginError(f"{self.name}.step was called before collect: there are no rollouts to learn from")
        return env.rollouts

    def parts(self, env: Env, rollouts: Rollouts, part: Tensor) -> Iterator[tuple[Terms, Logs]]:
        """The losses of the samples of one update, of one pass after another."""
        for noised in self.noised(env, rollouts, part, range(self.config.levels)):
            yield self.terms(env, noised, rollouts)

    def noised(
        self, env: Env, rollouts: Rollouts, rows: Tensor, levels: Sequence[int], shared: int = 1
    ) -> Iterator[Noised]:
        """These samples at each of these noise levels, as many together as a micro-batch holds.

        `shared` samples in a row, the whole of a group, get the sigma and z1 of the first one.
        """
        t = rollouts.tensors
        index = t["index"][rows].cpu().numpy()  # before anything of this update runs on the device
        key = index - index % self.config.num_generations if shared > 1 else index
        places = [(place, level) for level in levels for place in range(len(index))]
        for first in range(0, len(places), env.micro_batch):
            some = places[first : first + env.micro_batch]
            z1, sigma = [], []
            for level in dict.fromkeys(level for _, level in some):
                own = key[[place for place, its in some if its == level]]
                z1.append(env.draw.noise(own, f"z1.level{level}"))
                sigma.append(env.draw.sigma(own, f"sigma.level{level}"))
            place, number = torch.tensor(some, device=rows.device).unbind(1)
            at, noise, s = rows[place], torch.cat(z1), torch.cat(sigma)
            z0, cond = t["z0"][at], rollouts.cond[at]
            yield Noised(at, flow.interpolate(z0, noise, s), flow.velocity_target(z0, noise), s, number, cond)
