"""Where plugins are examined: the real environment around a small base, set up afresh for every check."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, wraps
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.api import Method, Prompt, Reward
from bench.budget import Budget, Ledger
from bench.config.settings import StageSettings as StageSettings
from bench.config.settings import Train
from bench.config.task import Task
from bench.datasets.world import Candidates, World
from bench.models.policy import PassFlops, PipelinePolicy
from bench.preflight.conformance.check import Mismatch
from bench.scoring.loading import load_scorers
from bench.scoring.scorer import Scorer
from bench.training.context import TaskContext
from bench.training.stage import Stage, StageStart

BATCH = 4
LORA_RANK = 2
UPDATES = 3  # more than one, because a KL term has no gradient and a ratio no clipping before the first


class FixedNetworkReward(Reward):
    """Judges pictures by a small network of fixed weights: the ledger has FLOPs to charge, and no two scores are equal.

    It belongs to no world, so that checks depend on no reward that is registered.
    """

    name: ClassVar[str] = "fixed-network"
    held: ClassVar[Mapping[str, float]] = {}
    reads_prompts: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def load(self) -> None:
        """Make the network; its weights are the same on every machine."""
        weights = np.random.Generator(np.random.Philox(0)).normal(0, 0.2, (32, 3, 8, 8))
        self._kernels = torch.from_numpy(weights.astype(np.float32))

    @torch.no_grad()
    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 1] of uint8 (B, H, W, 3)."""
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        return self.scores(x, prompts, metadata).numpy()

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """The same of float32 (B, 3, H, W) in [0, 1], with gradient."""
        features = torch.nn.functional.conv2d(images - 0.5, self._kernels, stride=4).relu().mean((2, 3))
        return torch.sigmoid(features @ torch.linspace(-4, 4, len(self._kernels)))


_REWARD = f"{__name__}:{FixedNetworkReward.__name__}"
_TASK = Task(
    name="conformance", primary=_REWARD, scorers=(_REWARD,), reward=_REWARD, top_share=1.0, candidates=32,
    train_prompts=32,
)  # fmt: skip


class _OnceMeasuredPolicy(PipelinePolicy):
    """Counts its FLOPs once with adapters and once without: counting takes longer than a step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._passes: dict[tuple[bool, tuple[int, ...] | None], PassFlops] = {}

    def measure_flops(self, latent: tuple[int, ...] | None = None) -> PassFlops:
        """As `PipelinePolicy` does; from the second call on what the first one found."""
        key = self._lora, latent
        if key not in self._passes:
            self._passes[key] = super().measure_flops(latent)
        return self._passes[key]


class _OnceDrawnWorld:
    """A world that draws once what every stage asks for again."""

    def __init__(self, world: World) -> None:
        self.name, self.version, self.model, self.categories = world.name, world.version, world.model, world.categories
        self.embed = world.embed
        self._prompts, self._candidates, self._pairs = cache(world.prompts), cache(world.candidates), cache(world.pairs)

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """As the world's."""
        return list(self._prompts(split, tuple(categories), count))

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """As the world's."""
        return self._candidates(tuple(categories), count)

    def pairs(self, categories: Sequence[str], count: int) -> Candidates:
        """As the world's."""
        return self._pairs(tuple(categories), count)


class Fixtures:
    """A world with its base model, loaded once; every stage begins from the same weights."""

    def __init__(self, world: World) -> None:
        self.world: World = _OnceDrawnWorld(world)

    @cached_property
    def policy(self) -> PipelinePolicy:
        """The base model."""
        policy = _OnceMeasuredPolicy.load(self.world.model)
        policy.transformer.requires_grad_(True)  # as in every stage
        policy.measure_flops()
        return policy

    @cached_property
    def frozen_parts(self) -> dict[str, torch.nn.Module]:
        """What no method may change, by name."""
        names = ("vae", *self.policy.family.encoders)
        parts = {name: getattr(self.policy.pipeline, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    @cached_property
    def _initial(self) -> list[tuple[torch.nn.Module, dict[str, Tensor]]]:
        modules = [self.policy.transformer, *self.frozen_parts.values()]
        return [(module, {name: t.clone() for name, t in module.state_dict().items()}) for module in modules]

    @cached_property
    def _scorers(self) -> dict[str, Scorer]:
        return load_scorers({_REWARD})

    def stage(self, method: type[Method], options: Mapping[str, Any], train: Train) -> Stage:
        """A method with these settings on the base as it was loaded; ends the use of every stage before.

        Raises:
            ConfigError: the method has no such settings.
        """
        source = f"{method.__module__}:{method.__qualname__}"
        settings = StageSettings(name=method.name, source=source, config=dict(options), train=train)
        initial = self._initial
        self.policy.merge()
        for module, state in initial:
            module.load_state_dict(state)
        context = TaskContext(self.world, _TASK, self.policy, self._scorers)
        unit = self.policy.measure_flops().forward
        return Stage.enter(StageStart(settings, Budget(1e12, "cost")), context, Ledger(), unit)


class MethodSubject:
    """A method under examination."""

    def __init__(
        self, method: type[Method], fixtures: Fixtures, adaptations: tuple[str, ...] = ("full", "lora")
    ) -> None:
        self.method = method
        self.fixtures = fixtures
        self.adaptations = adaptations

    def stage(self, options: Mapping[str, Any] | None = None, **train: Any) -> Stage:
        """The method with its `small` settings, changed by `options`, by the first of the adaptations."""
        shared = {"batch_size": BATCH, "micro_batch": BATCH, "adaptation": self.adaptations[0], "lora_rank": LORA_RANK}
        settings = Train(**{**shared, **train})
        return self.fixtures.stage(self.method, {**self.method.small, **(options or {})}, settings)


def for_each_adaptation(check: Callable[[MethodSubject], None]) -> Callable[[MethodSubject], None]:
    """A check on training of all weights, and again on low-rank adapters."""

    @wraps(check)
    def each(subject: MethodSubject) -> None:
        for adaptation in subject.adaptations:
            try:
                check(MethodSubject(subject.method, subject.fixtures, (adaptation,)))
            except Mismatch as mismatch:
                if adaptation == "full":
                    raise
                raise Mismatch(f"with --train.adaptation {adaptation}, {mismatch.expected}", mismatch.came) from None

    return each


class RewardSubject:
    """A reward under examination, with pictures of the world that it can judge."""

    def __init__(self, reward: Reward, fixtures: Fixtures) -> None:
        self.reward = reward
        self.reward.load()
        self.fixtures = fixtures

    @cached_property
    def pictures(self) -> Candidates:
        """Eight pictures uint8 (8, H, W, 3) with prompts to which the reward applies; fewer where there are no more.

        Where it applies to none of the world's, with the examples that it declares.
        """
        some = self.fixtures.world.candidates(self.fixtures.world.categories, 128)
        if self.reward.examples and not any(self.reward.applies(prompt.metadata) for prompt in some.prompts):
            texts = itertools.islice(itertools.cycle(self.reward.examples), 8)
            return Candidates(some.images[:8], [Prompt(i, text, dict(about)) for i, (text, about) in enumerate(texts)])
        rows = [i for i, prompt in enumerate(some.prompts) if self.reward.applies(prompt.metadata)][:8]
        return Candidates(some.images[rows], [some.prompts[i] for i in rows])
