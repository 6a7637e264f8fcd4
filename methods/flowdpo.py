"""Flow-DPO: direct preference optimisation of pairs, online. arXiv 2311.12908, arXiv 2501.13918."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from bench.api import Needs, Option
from methods._own_samples import Logs, OwnSamples, Terms
from methods.dgpo import DGPO

__all__ = ["FlowDPO"]


class FlowDPO(DGPO):
    """The best of a group of own samples against its worst: -log S(-b/2 [(e_w - e_w,ref) - (e_l - e_l,ref)]).

    With one sigma and z1 for both. Its gradient is that of b sg(w) A e, a mean over the two, with A = (1, -1) and
    DGPO's weight w of this group of two: so it is trained, and logged as `dpo`.

    Source: Diffusion-DPO, arXiv 2311.12908, for flow models Flow-DPO, arXiv 2501.13918, without its weight
    (1 - sigma)^2. Deviations: pairs are made online; e is a mean over dimensions, so that b is D times smaller than
    with a sum.
    """

    name: ClassVar[str] = "flowdpo"
    paper: ClassVar[str] = "arXiv 2311.12908; arXiv 2501.13918"
    needs: ClassVar[Needs] = Needs(reward=True, reference=True)
    small: ClassVar[Mapping[str, Any]] = OwnSamples.small

    @dataclass(frozen=True)
    class Config(OwnSamples.Config):
        """The defaults of `num_groups` and `levels` give as many noised samples per update as DGPO's."""

        num_groups: Annotated[int, Option("prompts per rollout phase, each a pair", ge=1, le=10**6)] = 16
        num_generations: Annotated[int, Option("pictures per prompt, of which the best and worst train", ge=2)] = 8
        levels: Annotated[int, Option("noise levels at which each pair trains", ge=1, le=10**4)] = 4
        beta: Annotated[float, Option("b [public code: 100 to 2000 at D = 65,536; scale by D^1/2]", gt=0)] = 12.5
        kl_beta: Annotated[float, Option("weight of |v - v_ref|^2 (the papers: 0)", ge=0)] = 0.0

    @property
    def group_size(self) -> int:
        """A pair."""
        return 2

    @property
    def policy_weight(self) -> float:
        """b."""
        return float(self.config.beta)

    def chosen(self, rewards: Tensor) -> Tensor:
        """The best and the worst of each group."""
        return self.advantages(rewards) != 0

    def advantages(self, rewards: Tensor) -> Tensor:
        """1 for the best of each group, -1 for its worst, 0 for the others."""
        best = rewards.nan_to_num(nan=-math.inf).argmax(1, keepdim=True)
        worst = rewards.nan_to_num(nan=math.inf).argmin(1, keepdim=True)
        return torch.zeros_like(rewards).scatter(1, worst, -1.0).scatter(1, best, 1.0)

    def weighted(self, weight: Tensor, advantage: Tensor, e: Tensor, kl: Tensor) -> tuple[Terms, Logs]:
        """sg(w) A e and kl, each (b,), and the loss of the pair."""
        terms, _ = super().weighted(weight, advantage, e, kl)
        return terms, {"dpo": -torch.log1p(-weight)}
