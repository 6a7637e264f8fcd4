"""RAFT: supervised fine-tuning on the best of a model's own samples. arXiv 2304.06767."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from bench import flow
from bench.api import Env, Needs, Option, Rollouts
from methods._own_samples import Logs, Noised, OwnSamples, Terms

__all__ = ["RAFT"]


class RAFT(OwnSamples):
    """Flow matching on the best of `num_generations` own samples of each prompt: the loss |v - (z1 - z0)|^2.

    A control of methods that learn from a reward: what choosing gives, without any negative sample.

    Source: RAFT, arXiv 2304.06767, algorithm 1, with the loss of SFT. Deviations: online, from the policy as it is now,
    where the paper's batches are larger and each is trained on for longer; of equal rewards the first sample is best,
    and groups whose rewards are all equal are left out.
    """

    name: ClassVar[str] = "raft"
    paper: ClassVar[str] = "arXiv 2304.06767"
    needs: ClassVar[Needs] = Needs(reward=True)

    @dataclass(frozen=True)
    class Config(OwnSamples.Config):
        """Of `num_groups` prompts, as many samples are trained on."""

        num_groups: Annotated[int, Option("prompts per rollout phase, each trained on once", ge=1, le=10**6)] = 16
        num_generations: Annotated[int, Option("K: pictures per prompt, the best of which trains", ge=2, le=10**6)] = 8
        levels: Annotated[int, Option("noise levels at which each sample trains", ge=1, le=10**4)] = 4

    def chosen(self, rewards: Tensor) -> Tensor:
        """The best of each group."""
        best = rewards.nan_to_num(nan=-math.inf).argmax(1, keepdim=True)
        return torch.zeros_like(rewards, dtype=torch.bool).scatter(1, best, True)

    def terms(self, env: Env, noised: Noised, rollouts: Rollouts) -> tuple[Terms, Logs]:
        """|v - (z1 - z0)|^2."""
        v = env.model.velocity(noised.z, noised.sigma, noised.cond)
        return {"base": (1.0, flow.per_sample_mse(v, noised.target))}, {}
