"""One stage of a cell: a method with its environment, its budget and its state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.api import ConfigError, Method, Needs, PluginError, Prompt, Rollouts
from bench.budget import Budget, Ledger, Limit
from bench.config.settings import StageSettings as StageSettings
from bench.datasets.dataset import BucketedDataset, Dataset
from bench.distributed.ranks import SINGLE_PROCESS, Ranks
from bench.models.flops import PassFlops
from bench.models.text_condition import TextCondition
from bench.plugin_errors import plugin_errors
from bench.scoring.scorer import Scorer
from bench.tensors import load_tensors, write_tensors
from bench.training.context import Metering, TaskContext
from bench.training.curation import chooses, training_data
from bench.training.env import MeteredModel, SampleDraw, TrainingEnv
from bench.training.optimizer import Optimizer

if TYPE_CHECKING:
    from bench.models.policy import PipelinePolicy

T = TypeVar("T")

STAGE_SEED = 1_000_003


@dataclass(frozen=True)
class StageStart:
    """One stage of a cell before it is entered.

    spent: what the stages before were given, in the budget's unit; what they left over is not carried on. number: its
    place among the stages, from 0. entry: the file that keeps the weights at entry of later stages, for a resume.
    """

    settings: StageSettings
    budget: Budget
    seed: int = 0
    spent: float = 0.0
    number: int = 0
    entry: Path = Path(os.devnull)

    @property
    def noise_seed(self) -> int:
        """Another one for each stage of a chain, so that the second sees fresh noise."""
        return self.seed + STAGE_SEED * self.number


class Stage:
    """Advances a method phase by phase: `collect` where the buffer is empty, then `step`."""

    def __init__(
        self, method: Method, env: TrainingEnv, limit: Limit, policy: PipelinePolicy, ranks: Ranks = SINGLE_PROCESS
    ) -> None:
        self.method = method
        self.env = env
        self.limit = limit
        self.policy = policy
        self._ranks = ranks

    @classmethod
    def enter(cls, plan: StageStart, context: TaskContext, ledger: Ledger, unit: float) -> Stage:
        """Set up a stage on the policy as it is now, which becomes the reference; `unit` is `Metering`'s."""
        policy, task, ranks = context.policy, context.task, context.ranks
        method, train = plan.settings.build(), plan.settings.train
        if method.needs.reward and task.reward is None:
            raise ConfigError(
                f"method {method.name!r} needs a reward, but task {task.name!r} names none: set task.reward"
            )
        if plan.number:
            _enter_with(policy, plan.entry, ranks)
        reference = policy.frozen_copy() if method.needs.reference and train.adaptation == "full" else None
        policy.precision = train.precision
        trained = policy.prepare(train, plan.noise_seed)
        dataset = _training_data(context, method.needs, ledger, unit) if method.needs.data else None
        passes = _measured(policy, dataset)
        optimizer = Optimizer(policy.shard(trained), train, keeps_old=method.needs.old)
        if method.needs.reference and train.adaptation == "lora":
            reference = policy.frozen_copy()
        prompts = _training_prompts(context) if method.needs.reward else []
        metering = Metering(ledger, Limit(plan.budget, ledger, plan.spent), unit, ranks)
        draw = SampleDraw(policy, metering, train, plan.noise_seed, dataset, prompts)
        model = MeteredModel(policy, reference, metering, passes, optimizer.old_weights if method.needs.old else None)
        texts = [*(dataset.texts if dataset else ()), *(p.text for p in prompts), ""]
        ranks.first_rank_first(lambda: policy.texts.prepare(texts))
        reward = _training_reward(context, method.needs) if method.needs.reward else None
        env = TrainingEnv(draw, model, optimizer, reward, metering, train)
        return cls(method, env, metering.limit, policy, ranks)

    @property
    def skipped_in_a_row(self) -> int:
        """Steps without an update since the last one with."""
        return self.env.skipped_in_a_row

    def advance(self) -> dict[str, float] | None:
        """One optimiser update, after a fresh collect where one is due; None where the budget does not hold them.

        Raises:
            BudgetExhausted: the limit cut a phase short.
            PluginError: the method made no update, or more than one.
        """
        metrics: dict[str, float] = {}
        if self.method.collects() and self._is_used_up():
            if not self.limit.fits("collect", "step"):
                return None
            self.limit.begin()
            with self._blamed("collect"):
                self.env.rollouts = self._given("collect", self.method.collect(self.env), Rollouts)
            self.env.settle()
            self.limit.finish("collect")
            metrics |= self.env.rollouts.metrics
        if not self.limit.fits("step"):
            return None
        self.limit.begin()
        self.env.updates_in_step = 0
        with self._blamed("step"):
            logged = self._given("step", self.method.step(self.env), dict)
            metrics |= {str(name): float(value) for name, value in logged.items()}
        self.env.settle()
        self.limit.finish("step")
        if self.env.updates_in_step != 1:
            raise PluginError(
                f"method {self.method.name!r}: one step has to make exactly one optimiser update by env.update() (or "
                f"env.skip_update()), but it made {self.env.updates_in_step}"
            )
        if self.env.rollouts is not None:
            self.env.rollouts.used += 1
        return metrics

    def _blamed(self, part: str) -> AbstractContextManager[None]:
        return plugin_errors(f"method {self.method.name!r} in {part}()", type(self.method))

    def _given(self, part: str, value: Any, kind: type[T]) -> T:
        """What the method returned, if it is of this kind."""
        if not isinstance(value, kind):
            raise PluginError(
                f"method {self.method.name!r}: expected {part}() to return a {kind.__name__}, got {value!r}: mend what "
                "it returns"
            )
        return value

    def _is_used_up(self) -> bool:
        return self.env.rollouts is None or self.env.rollouts.used >= self.env.rollouts.updates

    def abandon(self) -> None:
        """Drop a phase that the budget cut short; its cost stays in the ledger, its gradient goes."""
        self.env.abandon()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights, where averaging is on."""
        self.env.optimizer.swap_average()
        try:
            yield
        finally:
            self.env.optimizer.swap_average()

    def leave(self) -> None:
        """End the stage: take the averaged weights where averaging is on, merge adapters, freeze."""
        self.env.optimizer.swap_average()
        self.policy.merge()

    def frozen(self) -> dict[str, Tensor]:
        """All that the method must leave as it is, by name: what is not trained, and the reference."""
        return self.policy.frozen_tensors() | self.env.model.reference_tensors()

    # State

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments and the rollouts of all ranks by name."""
        self._ranks.all_gather_object("weights", None)
        own = self.env.optimizer.tensors(keep=self._ranks.is_first)
        out = {f"optimiser.{name}": t for name, t in own.items()}
        if self.env.rollouts is not None:
            cond = self.env.rollouts.cond
            assert isinstance(cond, TextCondition)
            if cond.lengths is not None:  # all ranks need one length to gather them
                cond = cond.padded(max(self._ranks.all_gather_object("longest", cond.embeds.shape[1])))
            rows = {f"rollout_cond.{name}": t.to(self.policy.device) for name, t in cond.named().items()}
            rows |= {f"rollout.{name}": t for name, t in self.env.rollouts.tensors.items()}
            out |= {name: self._ranks.all_gather(t) for name, t in rows.items()}
        return out

    def state_dict(self) -> dict[str, Any]:
        """Counters and the method's own state, JSON-able."""
        rollouts = self.env.rollouts
        with self._blamed("state_dict"):
            own = self._given("state_dict", self.method.state_dict(), dict)
        return {
            "optimiser": self.env.optimizer.state_dict(),
            "limit": self.limit.state_dict(),
            "samples_drawn": self.env.draw.samples_drawn,
            "prompts_drawn": self.env.draw.prompts_drawn,
            "skipped_in_a_row": self.env.skipped_in_a_row,
            "method": own,
            "rollouts": None if rollouts is None else
            {"updates": rollouts.updates, "used": rollouts.used, "metrics": rollouts.metrics},
            "rollout_rows": None if rollouts is None else self._ranks.all_gather_object("rows", len(rollouts.cond)),
        }  # fmt: skip

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `tensors` and `state_dict`."""
        self.env.optimizer.load(_under(tensors, "optimiser."), state["optimiser"])
        self.limit.load_state_dict(state["limit"])
        self.env.draw.samples_drawn = state["samples_drawn"]
        self.env.draw.prompts_drawn = state["prompts_drawn"]
        self.env.skipped_in_a_row = state["skipped_in_a_row"]
        with self._blamed("load_state_dict"):
            self.method.load_state_dict(state["method"])
        if state["rollouts"] is not None:
            own, device = self._own_rows(state["rollout_rows"]), self.policy.device
            cond = TextCondition.of(_under(tensors, "rollout_cond."))[own].to(device)
            rows = {name: t[own].to(device) for name, t in _under(tensors, "rollout.").items()}
            self.env.rollouts = Rollouts(rows, cond, **state["rollouts"])

    def _own_rows(self, rows: list[int]) -> slice:
        """Which of the rollouts of all ranks are this one's; shared out anew where their number has changed."""
        if len(rows) != self._ranks.size:
            return self._ranks.local_slice(sum(rows))
        start = sum(rows[: self._ranks.rank])
        return slice(start, start + rows[self._ranks.rank])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _training_data(
    context: TaskContext, needs: Needs, ledger: Ledger, unit: float
) -> Dataset | BucketedDataset:  # fmt: skip
    """The supervised data; what it took to choose and to encode it stands in the ledger, once for all stages."""
    dataset = training_data(context, needs)
    ledger.curation_reward_calls = max(ledger.curation_reward_calls, dataset.scored)
    if chooser := chooses(context, needs):
        _measure(chooser, context)
        ledger.filter_cost = max(ledger.filter_cost, dataset.scored * chooser.flops / unit)
    shapes = dataset.shapes if isinstance(dataset, BucketedDataset) else [tuple(context.policy.latent_shape)]
    counts = dataset.counts if isinstance(dataset, BucketedDataset) else [len(dataset)]
    flops = sum(n * context.policy.measure_encoding_flops(of) for n, of in zip(counts, shapes, strict=True))
    ledger.encoding_cost = max(ledger.encoding_cost, (2 if needs.pairs else 1) * flops / unit)
    return dataset


def _training_prompts(context: TaskContext) -> list[Prompt]:
    categories = context.task.categories or context.world.categories
    return context.world.prompts("train", categories, context.task.train_prompts)


def _training_reward(context: TaskContext, needs: Needs) -> Scorer:
    """The scorer that trains, whose FLOPs are known."""
    assert context.task.reward is not None
    reward = context.scorers[context.task.reward]
    one = _measure(reward, context)
    if needs.reward_gradient:
        reward.measure_gradient(*one)
    return reward


def _measure(scorer: Scorer, context: TaskContext) -> tuple[np.ndarray, str, Mapping[str, Any]]:
    """Count the FLOPs of a scorer on one picture of the world, which comes back."""
    example = context.world.candidates(context.task.categories or context.world.categories, 1)
    one = example.images[0], example.prompts[0].text, example.prompts[0].metadata
    scorer.measure(*one)
    return one


def _measured(policy: PipelinePolicy, dataset: Dataset | BucketedDataset | None) -> dict[tuple[int, ...], PassFlops]:
    """The FLOPs of one sample's passes, by the shape of its latent; before weights are shared out among ranks."""
    shapes = set(dataset.shapes) if isinstance(dataset, BucketedDataset) else set()
    own = tuple(policy.latent_shape)
    return {own: policy.measure_flops(), **{shape: policy.measure_flops(shape) for shape in shapes - {own}}}


def _enter_with(policy: PipelinePolicy, entry: Path, ranks: Ranks) -> None:
    """Take the weights at stage entry from `entry`, or keep them there for a resume."""
    policy.unshard(policy.device)
    if ranks.all_gather_object("entry", entry.is_file())[0]:
        policy.transformer.float()  # as a stage leaves them, however the base's are held
        policy.transformer.load_state_dict(load_tensors(entry))
    elif ranks.is_first:
        write_tensors(entry, {name: t for name, t in policy.transformer.state_dict().items() if torch.is_tensor(t)})
