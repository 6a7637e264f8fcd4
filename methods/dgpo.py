"""DGPO: direct preference optimisation of whole groups. arXiv 2510.08425."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from bench import flow
from bench.api import Env, Needs, Option, Rollouts
from methods._own_samples import Logs, Noised, OwnSamples, Terms

__all__ = ["DGPO"]


class DGPO(OwnSamples):
    """Flow matching on own samples, weighted by their advantage A and by how little their group's order is learnt.

    With e = |v - (z1 - z0)|^2, e_ref that of the reference and w = S(b mean_i A_i (e_i - e_i,ref)) of a group at one
    noise level, the loss is sg(w) A e + `kl_beta` |v - v_ref|^2. sigma and z1 are one for a group.

    Source: DGPO, arXiv 2510.08425, and its reference code. Deviations: samples are made by the policy itself, and no
    error is clipped, where that code does both by a moving average of the policy; noise levels as in pre-training,
    where it takes the noisier ones of sampling. A group that a micro-batch does not hold takes one pass without
    gradient more.
    """

    name: ClassVar[str] = "dgpo"
    paper: ClassVar[str] = "arXiv 2510.08425"
    needs: ClassVar[Needs] = Needs(reward=True, reference=True)
    small: ClassVar[Mapping[str, Any]] = {**OwnSamples.small, "advantage_clip": 0.5}

    @dataclass(frozen=True)
    class Config(OwnSamples.Config):
        """The paper's values (SD3.5-Medium) in brackets; 8 groups of 16, 4 noise levels."""

        # e - e_ref is a mean over D dimensions and scatters as D^-1/2: 100 at D = 65,536 is 12.5 at D = 1,024.
        beta: Annotated[float, Option("b: of the group's weight [100 at D = 65,536; scale by D^1/2]", gt=0)] = 12.5
        kl_beta: Annotated[float, Option("weight of |v - v_ref|^2 [.02]", ge=0)] = 0.02
        advantage_clip: Annotated[float, Option("largest |advantage| [5]", gt=0)] = 5.0
        scale_rewards: Annotated[flow.Scale, Option("what divides advantages [group; OCR batch]")] = "group"
        guidance: Annotated[float, Option("guidance scale of sampling [4.5]", ge=0, le=1000)] = 1.0

    config: Any

    @property
    def group_size(self) -> int:
        """Samples of a group that are trained on."""
        return int(self.config.num_generations)

    @property
    def policy_weight(self) -> float:
        """Of the weighted flow-matching loss."""
        return 1.0

    def chosen(self, rewards: Tensor) -> Tensor:
        """Whole groups: one in which the reward abstained from a picture is left out."""
        return (~rewards.isnan()).all(1, keepdim=True).expand_as(rewards)

    def advantages(self, rewards: Tensor) -> Tensor:
        """A (groups, size) of rewards (groups, size)."""
        clip = self.config.advantage_clip
        return flow.group_advantages(rewards, scale=self.config.scale_rewards).clamp(-clip, clip)

    def parts(self, env: Env, rollouts: Rollouts, part: Tensor) -> Iterator[tuple[Terms, Logs]]:
        """The losses of whole groups: together where a micro-batch holds them, one in several passes where not."""
        size = self.group_size
        together = size * max(1, env.micro_batch // size)
        for first in range(0, len(part), together):  # none, where other processes have the groups of this update
            rows = part[first : first + together]
            for level in range(self.config.levels):
                yield from self.group_terms(env, rollouts, list(self.noised(env, rollouts, rows, [level], shared=size)))

    def group_terms(self, env: Env, rollouts: Rollouts, passes: list[Noised]) -> Iterator[tuple[Terms, Logs]]:
        """The losses of whole groups at one noise level, pass by pass."""
        advantage = torch.cat([rollouts.tensors["advantage"][noised.rows] for noised in passes])
        v_ref = [env.model.reference_velocity(noised.z, noised.sigma, noised.cond) for noised in passes]
        e_ref = torch.cat([flow.per_sample_mse(v, noised.target) for v, noised in zip(v_ref, passes, strict=True)])
        with torch.no_grad():
            ahead = [] if len(passes) == 1 else [self.error(env, noised)[1] for noised in passes]
        done = 0
        for noised, reference in zip(passes, v_ref, strict=True):
            v, e = self.error(env, noised)
            gain = (torch.cat(ahead) if ahead else e.detach()) - e_ref
            a, g = (x.view(-1, self.group_size) for x in (advantage, gain))
            weight = flow.group_preference_weight(a, g, self.config.beta).repeat_interleave(self.group_size)
            own = slice(done, done := done + len(e))
            yield self.weighted(weight[own], advantage[own], e, flow.per_sample_mse(v, reference))

    def error(self, env: Env, noised: Noised) -> tuple[Tensor, Tensor]:
        """v (b, *S) and its flow-matching error (b,)."""
        v = env.model.velocity(noised.z, noised.sigma, noised.cond)
        return v, flow.per_sample_mse(v, noised.target)

    def weighted(self, weight: Tensor, advantage: Tensor, e: Tensor, kl: Tensor) -> tuple[Terms, Logs]:
        """sg(w) A e and kl, each (b,)."""
        terms = {"policy": (self.policy_weight, weight * advantage * e), "kl": (self.config.kl_beta, kl)}
        return terms, {"group_weight": weight}

    def terms(self, env: Env, noised: Noised, rollouts: Rollouts) -> tuple[Terms, Logs]:
        """Those of groups that are whole in one pass."""
        return next(self.group_terms(env, rollouts, [noised]))
