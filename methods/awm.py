"""Advantage Weighted Matching: policy gradient with the flow-matching loss as log-likelihood. arXiv 2509.25050."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from bench import flow
from bench.api import Env, Needs, Option, Rollouts
from methods._old_policy import FollowedByOldPolicy
from methods._own_samples import Logs, Noised, Terms

__all__ = ["AWM"]


class AWM(FollowedByOldPolicy):
    """PPO on own samples, whose log-likelihood at a noise level is their flow-matching error e.

    log p = -(sigma/p)(e^p - ...) (`flow.matching_log_prob`), rho = exp(log p - log p_old) with the same z1 and sigma,
    p_old the policy that sampled: the clipped surrogate of A/c, and `beta` |v - v_ref|^2 + `old_beta` |v - v_old|^2,
    where v_old follows the policy by a moving average.

    Source: Advantage Weighted Matching, arXiv 2509.25050, and its reference code (`exp_first`, `ghuber`). Deviations:
    Euler steps, where it has an SA solver; noise levels as in pre-training, where it takes those of sampling; a p_old
    for the first update of a phase is not computed, since the policy is the one that sampled.
    """

    name: ClassVar[str] = "awm"
    paper: ClassVar[str] = "arXiv 2509.25050"
    needs: ClassVar[Needs] = Needs(reward=True, reference=True, old=True)
    small: ClassVar[Mapping[str, Any]] = {
        **FollowedByOldPolicy.small, "updates": 2, "num_groups": 4, "num_generations": 2, "advantage_clip": 0.5,
        "epsilon": 1e-7, "old_rate": 0.4, "old_decay": 0.3,
    }  # fmt: skip

    @dataclass(frozen=True)
    class Config(FollowedByOldPolicy.Config):
        """The paper's values (SD3.5-Medium) in brackets; 72 groups of 24, 6 noise levels, 14 sampling steps."""

        power: Annotated[float, Option("p: of the error in the log-likelihood [.25]", gt=0, le=1)] = 0.25
        epsilon: Annotated[float, Option("clip range of the ratio [1]", gt=0)] = 1.0
        advantage_clip: Annotated[float, Option("c: largest |advantage|, which weighs 1 [5]", gt=0)] = 5.0
        beta: Annotated[float, Option("weight of |v - v_ref|^2 [.001; OCR .003; PickScore 1e-4]", ge=0)] = 0.001
        old_beta: Annotated[float, Option("weight of |v - v_old|^2 [1]", ge=0)] = 1.0
        old_decay: Annotated[float, Option("largest share of the old policy that a phase keeps", ge=0, le=1)] = 0.3
        scale_rewards: Annotated[flow.Scale, Option("what divides advantages [batch]")] = "batch"

    config: Config

    def advantages(self, rewards: Tensor) -> Tensor:
        """A/c in [-1, 1] (groups, size) of rewards (groups, size)."""
        clip = self.config.advantage_clip
        return flow.group_advantages(rewards, scale=self.config.scale_rewards).clamp(-clip, clip) / clip

    @torch.no_grad()
    def collect(self, env: Env) -> Rollouts:
        """Samples, and the log-likelihoods (N, levels) of those that a later update trains on."""
        rollouts = super().collect(env)
        t, c = rollouts.tensors, self.config
        t["log_prob"] = torch.zeros(len(rollouts.cond), c.levels, device=env.model.device)
        later = (t["group"] % c.updates > 0).nonzero().flatten()
        for noised in self.noised(env, rollouts, later, range(c.levels)):
            v = env.model.velocity(noised.z, noised.sigma, noised.cond)
            t["log_prob"][noised.rows, noised.level] = self.log_prob(v, noised)
        return rollouts

    def log_prob(self, v: Tensor, noised: Noised) -> Tensor:
        """The log-likelihood (b,) of samples at a noise level."""
        return flow.matching_log_prob(flow.per_sample_mse(v, noised.target), noised.sigma, self.config.power)

    def terms(self, env: Env, noised: Noised, rollouts: Rollouts) -> tuple[Terms, Logs]:
        """max(-A rho, -A clip(rho)) + beta |v - v_ref|^2 + old_beta |v - v_old|^2."""
        c, t = self.config, rollouts.tensors
        v_old = env.model.old_velocity(noised.z, noised.sigma, noised.cond) if c.old_beta > 0 else None
        v = env.model.velocity(noised.z, noised.sigma, noised.cond)
        log_p = self.log_prob(v, noised)
        log_ratio = log_p - (t["log_prob"][noised.rows, noised.level] if rollouts.used else log_p.detach())
        terms = {"policy": (1.0, flow.ppo_loss(log_ratio, t["advantage"][noised.rows], c.epsilon))}
        ratio = log_ratio.detach().exp()
        logs = {"ratio": ratio, "clip_fraction": (ratio - 1).abs().gt(c.epsilon).float()}
        if v_old is not None:
            terms["old"] = (c.old_beta, flow.per_sample_mse(v, v_old))
        if c.beta > 0:
            v_ref = env.model.reference_velocity(noised.z, noised.sigma, noised.cond)
            terms["kl"] = (c.beta, flow.per_sample_mse(v, v_ref))
            logs["norm_ratio"] = v.detach().flatten(1).norm(dim=1) / v_ref.flatten(1).norm(dim=1)
        return terms, logs
