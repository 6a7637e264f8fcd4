"""The contract between the harness and its plugins: the only module that a method or a reward imports.

Legend of symbols, the same in every method file:

    z0      clean latent of a picture                        (B, *S)
    z1      standard normal noise                            (B, *S)
    sigma   noise level, 0 is data and 1 is noise            (B,)
    z       (1 - sigma) z0 + sigma z1                        (B, *S)
    v       velocity dz/dsigma; its target is z1 - z0        (B, *S)
    w       guidance scale

This module imports neither torch, numpy nor any plugin, so that `bench list` and `bench --help` stay quick.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

__all__ = [
    "Batch",
    "BenchError",
    "BudgetExhausted",
    "CheckpointMissing",
    "Condition",
    "ConfigError",
    "DataError",
    "Draw",
    "Env",
    "Method",
    "Model",
    "Needs",
    "NonFiniteError",
    "Option",
    "PluginError",
    "Prompt",
    "Reward",
    "Rollouts",
]


class BenchError(Exception):
    """Something went wrong that one printed sentence explains: what was expected, what came, how to mend it."""


class ConfigError(BenchError):
    """The command line, a preset or a plugin's settings ask for something that does not exist or cannot be."""


class PluginError(BenchError):
    """A method or a reward breaks the contract of this module."""


class DataError(BenchError):
    """Pictures, captions or stored results are missing, damaged or of another kind than expected."""


class CheckpointMissing(DataError):
    """A scorer's checkpoint or environment is not on this machine; the message says how to get it."""


class NonFiniteError(BenchError):
    """A loss, a gradient or a reward is NaN or infinite."""


class BudgetExhausted(BenchError):
    """The next pass would exceed the budget. Raised before the pass runs; the runner ends the cell with it."""


Effect = Literal["numbers", "cell", "report", "run"]


def Option(help: str, *, effect: Effect = "numbers", metavar: str = "", before: Any = ..., **bounds: Any) -> Any:
    """All there is to say of one setting: `Annotated[int, Option("points per sample", ge=0)] = 6`.

    `help` becomes the text of the command-line option, and `metavar` what its value is called there. `bounds` are
    pydantic's: `ge`, `gt`, `le`, `lt`. `effect` says what a change of the setting changes: the recorded `numbers` of
    every cell; those of the cells that it is set for, so that cells of one experiment may differ in it (`cell`); what a
    `report` says of the numbers; or only where and how they are computed (`run`). `before` is the value that everything
    had before there was this option: with it, a cell is recorded as those were, and compares with them.
    """
    marks = {"effect": effect, "metavar": metavar} | ({} if before is ... else {"before": before})
    return Field(description=help, json_schema_extra=marks, **bounds)


@dataclass(frozen=True)
class Needs:
    """What a method asks of the harness; the runner refuses a task that cannot give it.

    data: clean latents with captions. unselected: those of all candidates of the task, whatever it selects. pairs:
    beside `data`, each with the latent of a picture of the same caption that was rejected for it. reward: `env.score`
    and training prompts. log_prob: stochastic sampling with log-probabilities. reference: the frozen model
    at stage entry. old: a second policy of the same architecture that follows the trained one as the method says.
    reward_gradient: a reward with a gradient, beside `reward`.
    """

    data: bool = False
    unselected: bool = False
    pairs: bool = False
    reward: bool = False
    log_prob: bool = False
    reference: bool = False
    old: bool = False
    reward_gradient: bool = False


@dataclass(frozen=True)
class Prompt:
    """One prompt: its index in its split, its text, and what scorers need to judge it (JSON-able)."""

    index: int
    text: str
    metadata: dict[str, Any]

    @property
    def category(self) -> str:
        """GenEval's tag of the prompt, or `all` where it has none."""
        return str(self.metadata.get("tag", "all"))


class Condition(Protocol):
    """An opaque batch of conditioning (text embeddings, class labels); the policy that made it reads it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Condition:
        """Rows by slice or by integer index (Tensor or sequence), as a new batch."""

    @staticmethod
    def cat(parts: Sequence[Any]) -> Any:
        """One batch of several."""


@dataclass(frozen=True)
class Batch:
    """Training samples: latents (B, *S) float32, their conditioning after caption dropout, and their global index.

    `index` (B,) int64 counts samples drawn since the start of the stage over all processes: every random number that
    belongs to a sample is keyed by it. For a method with `Needs(pairs=True)` a sample is a pair: `rejected`
    (B, *S) are the latents of the pictures that were rejected for those of z0.
    """

    z0: Tensor
    cond: Condition
    prompts: Sequence[str]
    metadata: Sequence[Mapping[str, Any]]
    index: np.ndarray
    rejected: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass
class Rollouts:
    """What `collect` gathered. The runner owns it, stores it in checkpoints, and hands it to the next `updates` steps.

    `tensors` are named tensors on the policy's device, with a row for each row of `cond`, the conditioning of the
    samples; of several processes each holds its own rows. `metrics` is what to log, the same on every process.
    `updates` is how many optimiser updates this buffer serves; `used` how many it has served.
    """

    tensors: dict[str, Tensor]
    cond: Condition
    updates: int
    metrics: dict[str, float] = field(default_factory=dict)
    used: int = 0


class Draw(Protocol):
    """Data and random numbers, keyed by the global sample index: never by rank, micro-batch or call order."""

    def batches(self) -> Iterator[Batch]:
        """The micro-batches of the next global batch of clean latents.

        They hold `batch_size` samples in all, or this process's share of them where several train together. Of pairs,
        whose pass has two rows for each, half as many go together, one at least.
        """

    def prompts(self, count: int) -> tuple[list[Prompt], np.ndarray]:
        """The next `count` different training prompts and their global prompt indices int64.

        Where several processes train together, they share out the `count` prompts, in order; each gets one at least.
        The index counts prompts since the start of the stage: `index % count` is the place among the `count`.
        """

    def noise(self, index: np.ndarray, name: str = "z1", shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard normal (B, *S) float32 on the policy's device, one independent draw per (name, index).

        S is `shape`; or else that of the clean latents of these samples, which is one in each batch but differs from
        batch to batch where pictures train in aspect buckets; and `model.latent_shape` for a method without data. A
        method that draws data and samples of its own gives `model.latent_shape` for the latter.
        """

    def uniform(self, index: np.ndarray, name: str) -> Tensor:
        """Uniform on [0, 1) (B,) float32, one independent draw per (name, index)."""

    def sigma(self, index: np.ndarray, name: str = "sigma") -> Tensor:
        """Training noise levels (B,) in (0, 1): logit-normal(0, 1) density through the model's shifted schedule.

        Source: SD3, arXiv 2403.03206, section 3.1 and eq. 23.
        """


class Model(Protocol):
    """The policy under training. Every pass is metered; gradients follow torch's own grad mode."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """S, the shape of one clean latent of the pictures that are drawn and judged; `batch.z0` may have another."""

    @property
    def device(self) -> torch.device:
        """Where tensors live."""

    @property
    def shift(self) -> float:
        """Of the noise schedule: sigma = shift u / (1 + (shift - 1) u)."""

    def velocity(self, x: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        """Predicted velocity (B, *S) float32 at x (B, *S) and sigma (B,)."""

    def velocity_branches(self, x: Tensor, sigma: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """The unconditional and the conditional velocity v_u, v_c, each (B, *S), by one pass of 2 B rows."""

    def guided_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float) -> Tensor:
        """`guide` of both branches; v_c alone where scale is 1."""

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """v_u + scale (v_c - v_u), renormalised where the model's family does that. Source: arXiv 2207.12598, eq. 6."""

    def reference_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float = 1.0) -> Tensor:
        """`guided_velocity` of the frozen model at stage entry, without gradient."""

    def old_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float = 1.0) -> Tensor:
        """`guided_velocity` of the old policy, without gradient: the model at stage entry until `env.update_old`."""

    def null(self, cond: Condition) -> Condition:
        """The empty prompt's conditioning, as many rows as `cond` has."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Text to conditioning."""

    def sigmas(self, steps: int) -> Tensor:
        """The sampling schedule (steps + 1,) float32, from 1 down to exactly 0, shifted as the scheduler says."""

    def decode(self, z0: Tensor) -> np.ndarray:
        """Latents (B, *S) to pictures uint8 (B, H, W, 3), without gradient, in chunks."""

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """Latents (B, *S) to pictures float32 (B, 3, H, W) in [0, 1], with gradient."""


class Env(Protocol):
    """All that a method touches."""

    @property
    def draw(self) -> Draw:
        """Data and random numbers."""

    @property
    def model(self) -> Model:
        """The policy under training, metered."""

    @property
    def batch_size(self) -> int:
        """Samples of one optimiser update, over all micro-batches and processes."""

    @property
    def micro_batch(self) -> int:
        """The most samples of one pass with gradient; `draw.batches` keeps to it, so must a method.

        A pass of both branches of guidance has two rows for each sample.
        """

    @property
    def rollouts(self) -> Rollouts | None:
        """What `collect` gathered last, or None before it."""

    def score(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The task's training reward (B,) float32 of uint8 pictures (B, H, W, 3); higher is better.

        NaN where the reward abstains: such a picture is left out of its group (`flow.group_advantages`,
        `flow.varied_groups`), and counted by `flow.reward_metrics`.
        """

    def submit(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Callable[[], np.ndarray]:
        """Begin what `score` does; called, what this returns gives the scores.

        A reward in another process scores meanwhile, one in this process before this returns. Where `scores_groups`,
        the pictures are all of one group, and of one prompt.
        """

    @property
    def scores_groups(self) -> bool:
        """Whether the task's reward scores whole groups only; asked before `submit` by methods that sample groups."""

    def score_with_gradient(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """The task's training reward (B,) float32 of pictures float32 (B, 3, H, W) in [0, 1], with gradient."""

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (b, ...) of all processes that train together, in order (B, ...).

        A process may bring none, but every one has to call it.
        """

    def backward(self, terms: Mapping[str, tuple[float, Tensor]], count: float) -> None:
        """Accumulate the gradient of named, weighted, per-sample losses {name: (weight, loss (b,))}; free the graph.

        The gradient is that of `sum over terms of weight * loss.sum() / count`, so that micro-batches add up to the
        whole batch: `count` is the normaliser of the whole update over all processes (B for SFT, B + lambda N B for
        SOAR), the same in every call of one `step`. The plain mean of each term over all its entries is logged. A term
        of weight 0 is logged only. A loss that is NaN or infinite is told by `update`.
        """

    def update(self, metrics: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """Clip the gradient, take the one optimiser step of this `step`, and return the logged means.

        Those are of the loss terms, and of `metrics`: values per sample (b,), averaged over all samples.

        Raises:
            NonFiniteError: a loss or the gradient is NaN or infinite; no weight has changed.
        """

    def update_old(self, decay: float) -> None:
        """Weights of the old policy <- decay old + (1 - decay) trained, decay in [0, 1]; in float32, kept for a resume.

        Where several processes train together, all of them have to call it with the same number.
        """

    def skip_update(self, reason: str) -> dict[str, float]:
        """Record that this `step` had no gradient to apply (all advantages zero, say): counted; limited in a row.

        Where several processes train together, all of them have to call it.
        """


class Method(abc.ABC):
    """A post-training method: its mathematics and nothing else. The runner owns loop, budget, logging, checkpoints.

    Subclasses set `name`, `paper` and `needs`, and a frozen dataclass `Config` whose fields become command-line options
    `--<name>.<field>`. `step` performs exactly one optimiser update: any number of `env.backward`, then one
    `env.update`. A method that learns from its own samples also overrides `collect`.

    `bench check` reads three declarations more. `small`: settings that make one step cheap and let every field of
    `Config` act. `inert`: {field of Config: why changing it changes nothing under these settings}.
    `expected_failures`: {check: why the method fails it and may}.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    needs: ClassVar[Needs] = Needs(data=True)
    small: ClassVar[Mapping[str, Any]] = {}
    inert: ClassVar[Mapping[str, str]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}

    @dataclass(frozen=True)
    class Config:
        """No settings."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abc.abstractmethod
    def step(self, env: Env) -> dict[str, float]:
        """One optimiser update; returns what `env.update` returns."""

    def collect(self, env: Env) -> Rollouts:
        """Gather rollouts for the next steps (methods that learn from their own samples)."""
        raise PluginError(f"method {self.name!r} has no collect(): it does not learn from its own samples")

    @property
    def prompts_at_once(self) -> int:
        """How many different training prompts `collect` asks for at once; a task that has fewer is refused."""
        return 0

    @classmethod
    def collects(cls) -> bool:
        """Whether the runner has to fill a rollout buffer before `step`."""
        return cls.collect is not Method.collect

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a restart besides model, optimiser and rollouts; JSON-able. Most methods: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if state:
            raise PluginError(f"method {self.name!r} was given state {sorted(state)} but defines no load_state_dict")


class Reward(abc.ABC):
    """A scorer of pictures; it serves as training reward, as data filter and in evaluation.

    `range` holds every score it can give. A batch scores as its singles do, in any order. `gold` says that the score is
    computed exactly from the picture and not learned. `applies` says for which prompts the score has a meaning.
    `reads_prompts` says that it depends on the prompt. `examples` are (prompt, metadata) for `bench check`, where the
    embedded world has no prompt that the reward applies to. `held` is {checkpoint: GiB on the device}, for `plan`;
    rewards of one process may share checkpoints, and None is not known. `expected_failures` is {check of
    `bench check`: why the reward fails it and may}. `environment` is a folder of pins, where the reward works in an
    environment of its own (`bench.scoring.workers.pinned_environment`). `worker_flops` are the FLOPs of one picture in
    another process, as measured there. `random_weights` is the `module:function` that writes its checkpoint at real
    size with random weights, where it looks for the published one: `bench rehearse` calls it with the reward's name and
    with `shrunken=True` where a small one will do. `stands_for` names the gold scorer that a proxy stands for.
    `differentiable` says that `scores` gives what a call gives, with a gradient. `groupwise` says that a call has to be
    a whole group of pictures of one prompt, and that a score may depend on all of them: such a reward trains, and
    neither judges nor selects.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    higher_is_better: ClassVar[bool] = True
    gold: ClassVar[bool] = False
    stands_for: ClassVar[str] = ""
    source: ClassVar[str] = ""
    reads_prompts: ClassVar[bool] = True
    examples: ClassVar[Sequence[tuple[str, Mapping[str, Any]]]] = ()
    held: ClassVar[Mapping[str, float] | None] = None
    expected_failures: ClassVar[Mapping[str, str]] = {}
    environment: ClassVar[Path | None] = None
    worker_flops: float = 0.0
    random_weights: ClassVar[str] = ""
    differentiable: ClassVar[bool] = False
    groupwise: ClassVar[bool] = False

    @classmethod  # noqa: B027 - most rewards have none
    def require_checkpoint(cls) -> None:
        """Raise CheckpointMissing where what `load` reads is not on this machine; reads no weights.

        Asked before a run begins, so that it is told once, and not by every cell.
        """

    def load(self) -> None:  # noqa: B027 - most rewards have nothing to load
        """Heavy imports and weights, onto `bench.device.present()`; called once before the first score."""

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        """Whether pictures of a prompt with this metadata can be scored."""
        return True

    @abc.abstractmethod
    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 of pictures uint8 (B, H, W, 3).

        A list may hold None for a picture that cannot be judged, whatever its prompt: it counts nowhere.
        """

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """Scores (B,) float32 of pictures float32 (B, 3, H, W) in [0, 1], with gradient to them.

        What a call gives, but for grey levels and the filter of a resize. Only where the class is `differentiable`.
        """
        raise PluginError(f"reward {self.name!r} has no scores(): it is not differentiable")

    def submit(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Callable[[], np.ndarray]:
        """Begin to score; what this returns waits for the scores. For the harness: a reward here scores at once."""
        scores = self(images, prompts, metadata)
        return lambda: scores

    def measure_worker_flops(self, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]) -> float:
        """FLOPs of one picture uint8 (H, W, 3) that another process spends, beside those that torch counts here."""
        return self.worker_flops
