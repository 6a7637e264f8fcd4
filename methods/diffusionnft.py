"""DiffusionNFT: positive and negative policies, told apart on the forward process. arXiv 2509.16117."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from bench import flow
from bench.api import Condition, Env, Needs, Option, Rollouts
from methods._old_policy import FollowedByOldPolicy
from methods._own_samples import Logs, Noised, Terms

__all__ = ["DiffusionNFT"]


class DiffusionNFT(FollowedByOldPolicy):
    """Flow matching on own samples: to good ones from v+, to bad ones from v-, both implied by v and v_old.

    v+ = (1 - b) v_old + b v, v- = (1 + b) v_old - b v, and q = 1/2 + clip(A, +-c)/(2 c) the optimality of a sample with
    group advantage A: the loss is (c/b)[q |x+ - z0|^2/w+ + (1 - q) |x- - z0|^2/w-] (`flow.nft_loss`) and
    `kl_beta` |v - v_ref|^2. Samples are made with v_old; neither sampling nor training has guidance.

    Source: DiffusionNFT, arXiv 2509.16117, algorithm 1, and the settings of its reference code. Deviations from that:
    Euler steps, where it has DPM-Solver of second order; noise levels as in pre-training, where it takes those of
    sampling; groups whole per update; groups whose rewards are all equal are left out.
    """

    name: ClassVar[str] = "diffusionnft"
    paper: ClassVar[str] = "arXiv 2509.16117"
    needs: ClassVar[Needs] = Needs(reward=True, reference=True, old=True)
    small: ClassVar[Mapping[str, Any]] = {
        **FollowedByOldPolicy.small, "advantage_clip": 0.5, "old_rate": 0.4, "old_decay": 0.3, "beta": 0.8
    }  # fmt: skip

    @dataclass(frozen=True)
    class Config(FollowedByOldPolicy.Config):
        """The paper's values (SD3.5-Medium) in brackets; 48 groups of 24."""

        beta: Annotated[float, Option("b: how far v+ and v- lie from v_old [1; OCR .1]", gt=0)] = 1.0
        advantage_clip: Annotated[float, Option("c: largest |advantage|, of optimality 0 or 1 [5]", gt=0)] = 5.0
        kl_beta: Annotated[float, Option("weight of |v - v_ref|^2 [1e-4]", ge=0)] = 1e-4
        scale_rewards: Annotated[flow.Scale, Option("what divides advantages [batch]")] = "batch"

    config: Config

    def sampling_velocity(self, env: Env, x: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        """v_old."""
        return env.model.old_velocity(x, sigma, cond, self.config.guidance)

    def advantages(self, rewards: Tensor) -> Tensor:
        """Optimality q in [0, 1] (groups, size) of rewards (groups, size)."""
        c = self.config
        advantage = flow.group_advantages(rewards, scale=c.scale_rewards)
        return 0.5 + advantage.clamp(-c.advantage_clip, c.advantage_clip) / (2 * c.advantage_clip)

    def terms(self, env: Env, noised: Noised, rollouts: Rollouts) -> tuple[Terms, Logs]:
        """(c/b)[q |x+ - z0|^2/w+ + (1 - q) |x- - z0|^2/w-] + kl_beta |v - v_ref|^2."""
        c, q = self.config, rollouts.tensors["advantage"][noised.rows]
        v_old = env.model.old_velocity(noised.z, noised.sigma, noised.cond)
        v = env.model.velocity(noised.z, noised.sigma, noised.cond)
        loss = flow.nft_loss(v, v_old, noised.target, noised.sigma, q, c.beta)
        terms = {"policy": (c.advantage_clip, loss)}
        logs = {"old_distance": flow.per_sample_mse(v.detach(), v_old)}
        if c.kl_beta > 0:
            v_ref = env.model.reference_velocity(noised.z, noised.sigma, noised.cond)
            terms["kl"] = (c.kl_beta, flow.per_sample_mse(v, v_ref))
            logs["norm_ratio"] = v.detach().flatten(1).norm(dim=1) / v_ref.flatten(1).norm(dim=1)
        return terms, logs
