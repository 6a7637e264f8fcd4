"""What one update of a method spends: its own code runs, around a model of one weight charged as the real one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench import flow
from bench.api import BudgetExhausted, Prompt
from bench.budget import UNITS, Budget, Ledger, Limit
from bench.config.settings import StageSettings as StageSettings
from bench.config.settings import Train
from bench.datasets.dataset import Dataset
from bench.datasets.rehearsal import Brightness
from bench.models.flops import PassFlops
from bench.models.text_condition import TextCondition
from bench.scoring.scorer import Scorer
from bench.training.context import Metering
from bench.training.env import MeteredModel, SampleDraw, TrainingEnv
from bench.training.optimizer import Optimizer
from bench.training.stage import Stage

if TYPE_CHECKING:
    from bench.preflight.forecast.shapes import ModelShapes

_LATENT = (1, 1, 3)  # picks out tensors of latents among a method's rollouts by their shape
_ENDLESS = Budget(1e18, "cost")
_LONGEST = 5.0  # seconds that the trial of one method goes on, once every phase was seen


@dataclass(frozen=True)
class LargestPass:
    """Rows of a method's largest pass with gradient, and of its largest one without."""

    with_gradient: int
    without_gradient: int


class OneWeightPolicy:
    """Implements `bench.models.policy.Policy`: the velocity is a weight times the state.

    `largest` are its passes so far.
    """

    def __init__(self, shift: float) -> None:
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.latent_shape: tuple[int, ...] = _LATENT
        self.device = torch.device("cpu")
        self.shift = shift
        self.largest = LargestPass(0, 0)

    def velocity(self, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """weight * x (B, *S)."""
        trained, other = self.largest.with_gradient, self.largest.without_gradient
        is_trained = torch.is_grad_enabled()
        self.largest = LargestPass(max(trained, is_trained * len(x)), max(other, (not is_trained) * len(x)))
        return self.weight * x

    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Conditioning without contents."""
        return TextCondition(torch.zeros(len(prompts), 1, 1), torch.zeros(len(prompts), 1))

    def null(self, cond: TextCondition) -> TextCondition:
        """The same."""
        return cond

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """v_u + scale (v_c - v_u)."""
        return flow.guide(v_u, v_c, scale)

    def sigmas(self, steps: int) -> Tensor:
        """The sampling schedule (steps + 1,)."""
        return flow.sigma_schedule(steps, self.shift)

    def decode(self, z0: Tensor) -> np.ndarray:
        """Pictures uint8 (B, 1, 1, 3), whose brightness is that of the latent."""
        return (z0.permute(0, 2, 3, 1) * 32 + 128).clamp(0, 255).to(torch.uint8).numpy()

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """Pictures float32 (B, 1, 1, 3)."""
        return z0.clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing that has to stay as it is."""
        return {}


@dataclass(frozen=True)
class UpdateSpending:
    """Of one update: amounts by unit but `seconds`, FLOPs that a card computes for it, and bytes of kept rollouts.

    The computed FLOPs are the charged ones and those of gradient checkpointing, which is not charged.
    """

    by_update: dict[str, float]
    computed: float
    rollouts: float
    largest: LargestPass


def forecast_spending(settings: StageSettings, shapes: ModelShapes, passes: PassFlops) -> UpdateSpending:
    """What an update of a stage spends on the model; passes of the reward are left out.

    Raises:
        BenchError: the method fails.
    """
    ledger = Ledger()
    stage = one_weight_stage(settings, shapes.shift, passes, ledger)
    spent = spent_by_update(stage, ledger)
    again = 0.0
    if settings.train.gradient_checkpointing:
        backward = ledger.backward * passes.reference / passes.backward  # passes with gradient, of one sample
        again = backward * passes.forward * spent["updates"] / max(ledger.updates, 1)
    policy: Any = stage.policy
    return UpdateSpending(spent, spent["flops"] + again, _rollout_bytes(stage, shapes), policy.largest)


def one_weight_stage(
    settings: StageSettings, shift: float, passes: PassFlops, ledger: Ledger, reward_flops: float = 0.0
) -> Stage:
    """A stage of the real method around a model of one weight, whose passes are charged as `passes`.

    `shift` is of the noise schedule; `reward_flops` those of one picture's reward.
    """
    method, train, policy = settings.build(), settings.train, OneWeightPolicy(shift)
    metering = Metering(ledger, Limit(_ENDLESS, ledger), unit=passes.reference)
    reward = Scorer(Brightness(), reward_flops) if method.needs.reward else None
    pictures = _pictures(train, pairs=method.needs.pairs) if method.needs.data else None
    prompts = [Prompt(i, f"prompt {i}", {}) for i in range(4096)] if method.needs.reward else []
    draw = SampleDraw(policy, metering, train, 0, pictures, prompts)
    reference = OneWeightPolicy(shift) if method.needs.reference else None
    optimizer = Optimizer([policy.weight], train, keeps_old=method.needs.old)
    old = optimizer.old_weights if method.needs.old else None
    model = MeteredModel(policy, reference, metering, {tuple(policy.latent_shape): passes}, old)
    env = TrainingEnv(draw, model, optimizer, reward, metering, train)
    # Of its policy a stage asks only in checkpoints and at its end what a pipeline alone has; neither happens here.
    return Stage(method, env, metering.limit, policy)  # type: ignore[arg-type]


def spent_by_update(stage: Stage, ledger: Ledger) -> dict[str, float]:
    """What one update of a fresh stage spends in every unit, rollouts shared out over the updates that they serve."""
    start, steps = time.perf_counter(), 0
    while True:
        try:
            stage.advance()
        except BudgetExhausted as error:  # no real budget is that small
            raise AssertionError(f"the trial's budget is too small: {error}") from error
        steps += 1
        rollouts = stage.env.rollouts
        if rollouts is not None:
            if rollouts.used >= rollouts.updates:
                break
        elif steps >= 2 or time.perf_counter() - start > _LONGEST:
            break
    seconds = time.perf_counter() - start
    return {unit: (seconds if unit == "seconds" else ledger.spent(unit)) / steps for unit in UNITS}


def _pictures(train: Train, *, pairs: bool) -> Dataset:
    latents = torch.zeros(train.batch_size, *_LATENT)
    texts = [f"picture {i}" for i in range(train.batch_size)]
    return Dataset.in_memory(latents, torch.ones_like(latents), texts, [{}] * len(texts), latents if pairs else None)


def _rollout_bytes(stage: Stage, shapes: ModelShapes) -> float:
    """Bytes that the rollouts of one phase would have with the real model's latents and texts."""
    rollouts = stage.env.rollouts
    if rollouts is None:
        return 0.0
    larger = math.prod(shapes.latent) / math.prod(_LATENT)
    own = sum(t.nbytes * (larger if t.shape[-3:] == _LATENT else 1) for t in rollouts.tensors.values())
    return own + len(rollouts.cond) * shapes.text_numbers * 4
