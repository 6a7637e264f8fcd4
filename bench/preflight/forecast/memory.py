"""Memory of a stage by part: what is there at once in each phase, what cards share out, and what scorers hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bench import registry
from bench.api import Needs, Reward
from bench.config.reward_expression import scorers_of_task
from bench.config.scorer_process import ScorerProcess
from bench.config.settings import Experiment, Runtime, Train
from bench.config.task import Task
from bench.preflight.forecast.activations import decoding_bytes, pass_bytes
from bench.preflight.forecast.shapes import ModelShapes
from bench.preflight.forecast.spending import LargestPass

BytesByPart = dict[str, float]

_LORA = ("--train.adaptation lora",)
_HELD = ("--runtime.denoiser_weights bfloat16 (LoRA alone)",)
_MENDS = {
    "activations": ("--train.gradient_checkpointing true", "a lower --train.micro_batch"),
    "a sampling pass": ("a lower --evaluation.batch_size and --train.micro_batch",),
    "gradients": _LORA,
    "AdamW's moments": _LORA,
    "a step of AdamW": _LORA,
    "reference": _LORA,
    "old policy": _LORA,
    "moving average": ("--train.ema_half_life 0",),
    "scorers": ("--scorers.NAME.device cpu, or that of a card which does not train, for those that only judge",),
    "text encoders": ("--runtime.park_encoders true", "--runtime.frozen_weights bfloat16", "--runtime.t5 false"),
    "rollouts": ("fewer pictures by rollout phase",),
    "rollouts, gathered": ("fewer pictures by rollout phase",),
    "denoiser": _HELD,
    "base, for drift": (*_HELD, "--evaluation.drift_states 0"),
}


@dataclass(frozen=True)
class StageMemory:
    """Bytes of a stage's parts that are always there, and of those that each phase has beside them.

    has_t5: whether there is a T5 that could be left out.
    """

    resident: BytesByPart
    phases: dict[str, BytesByPart]
    has_t5: bool = True

    def total(self, phase: str) -> float:
        """Bytes of all that is there in a phase."""
        return sum(self.resident.values()) + sum(self.phases[phase].values())

    @property
    def fullest(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=self.total)

    @property
    def most(self) -> float:
        """Bytes at the most."""
        return self.total(self.fullest)

    def mends(self, train: Train, runtime: Runtime) -> list[str]:
        """Settings that make the fullest phase smaller and are not in use yet, what helps most first."""
        parts = {**self.resident, **self.phases[self.fullest]}
        in_use = {
            "--train.adaptation lora": train.adaptation == "lora",
            "--train.gradient_checkpointing true": train.gradient_checkpointing,
            "--runtime.park_encoders true": runtime.park_encoders,
            "--runtime.frozen_weights bfloat16": runtime.frozen_weights == "bfloat16",
            "--runtime.t5 false": not (runtime.t5 and self.has_t5),
            _HELD[0]: runtime.denoiser_weights == "bfloat16",
        }
        found = dict[str, None]()
        for name in sorted(filter(parts.get, parts), key=lambda part: -parts[part]):
            left = [mend for mend in _MENDS.get(name, ()) if not in_use.get(mend)]
            found |= {", or ".join(left): None} if left else {}
        return list(found)


class StageMemoryForecaster:
    """The memory of the stages of one experiment; equal passes are computed once."""

    def __init__(self, experiment: Experiment, shapes: ModelShapes, scorers: float = 0.0) -> None:
        """`scorers` are the bytes that they hold."""
        self._experiment = experiment
        self._scorers = scorers
        self._shapes = shapes
        self._known: dict[str, float] = {}

    def of_stage(
        self, train: Train, trained: int, needs: Needs, *, rollouts: float, largest: LargestPass
    ) -> StageMemory:
        """Memory of a stage that trains `trained` weights; `rollouts` are the bytes it keeps of them."""
        shapes, runtime = self._shapes, self._experiment.runtime
        denoiser, encoders = shapes.bytes_of("transformer"), shapes.bytes_of(*shapes.family.encoders)
        full = train.adaptation == "full"
        resident: BytesByPart = {
            "denoiser": denoiser,
            "adapters": 0 if full else 4 * trained,
            "VAE": shapes.bytes_of("vae"),
            "text encoders": 0 if runtime.park_encoders else encoders,
            "base, for drift": denoiser if self._experiment.evaluation.drift_states else 0,
            "scorers": self._scorers,
            "reference": denoiser if needs.reference and full else 0,
            "old policy": 4 * trained if needs.old else 0,
            "moving average": 4 * trained if train.ema_half_life else 0,
        }
        moments = {"AdamW's moments": 8.0 * trained, "rollouts": rollouts}
        updating = {**moments, "gradients": 4.0 * trained}
        judged = 2 * self._experiment.evaluation.batch_size  # both branches of guidance
        sampling = self._pass(train, max(largest.without_gradient, judged), gradient=False)
        phases: dict[str, BytesByPart] = {
            "training passes": {**updating, "activations": self._pass(train, largest.with_gradient, gradient=True)},
            "optimiser's step": {**updating},
            "evaluation": {**moments, "a sampling pass": sampling},
            "decoding": {**moments, "decoding": self._decoding()},
        }
        if not full and runtime.denoiser_weights != "float32":
            folded = 4.0 * shapes.numbers_of("transformer") - denoiser
            phases["the result's evaluation"] = {**phases["evaluation"], "adapters folded in, float32": folded}
        if rollouts:
            gathering = {"AdamW's moments": 8.0 * trained, "rollouts, gathered": 2 * rollouts}
            phases["rollout"] = {**gathering, "a sampling pass": sampling}
        if runtime.park_encoders:
            phases["encoding texts"] = {"text encoders": encoders}
        return StageMemory(resident, phases, "t5" in shapes.family.options)

    def _pass(self, train: Train, batch: int, *, gradient: bool) -> float:
        """Bytes of a pass of so many rows, with gradient or without."""
        alike = dataclasses.replace(
            train, learning_rate=1.0, weight_decay=0.0, ema_half_life=0.0, warmup_updates=0, batch_size=1,
            micro_batch=1, gradient_checkpointing=train.gradient_checkpointing and gradient,
        )  # fmt: skip
        key = f"{alike} {batch} {gradient}"
        if key not in self._known:
            self._known[key] = pass_bytes(self._shapes, alike, batch, gradient=gradient)
        return self._known[key]

    def _decoding(self) -> float:
        if "decoding" not in self._known:
            held = self._shapes.runtime.frozen_weights
            self._known["decoding"] = decoding_bytes(self._shapes.family, self._shapes.latent, held)
        return self._known["decoding"]


# What cards that train together share out (`bench.distributed`)
_SHARDED = {
    "denoiser",
    "base, for drift",
    "reference",
    "moving average",
    "AdamW's moments",
    "gradients",
    "a step of AdamW",
}
# At once, at most: a block's weights, two buffers they come in, the gradient, two buffers in which it leaves.
# Source: foreach_all_gather and foreach_reduce of torch.distributed.fsdp.
_BLOCKS_FORWARD, _BLOCKS_BACKWARD = 3, 6


def sharded_memory(memory: StageMemory, shapes: ModelShapes, cards: int) -> StageMemory:
    """What of a stage's memory is on each of `cards` cards, and what is there in whole for a while."""
    blocks = shapes.family.blocks_of(shapes.pipeline.transformer)
    largest = max(sum(p.nbytes for p in block.parameters()) for block in blocks)
    phases = {name: _divided(parts, cards) for name, parts in memory.phases.items()}
    for parts in phases.values():
        if "activations" in parts or "a sampling pass" in parts:
            times = _BLOCKS_BACKWARD if "activations" in parts else _BLOCKS_FORWARD
            parts["blocks, put together"] = times * largest
    phases["optimiser's step"]["a step of AdamW"] = phases["optimiser's step"]["gradients"]  # its kernel is not fused
    phases["sharing out"] = {"the rest of the denoiser": memory.resident["denoiser"] * (1 - 1 / cards)}
    return dataclasses.replace(memory, resident=_divided(memory.resident, cards), phases=phases)


def _divided(parts: BytesByPart, cards: int) -> BytesByPart:
    return {name: size / cards if name in _SHARDED else size for name, size in parts.items()}


def scorer_bytes(experiment: Experiment, cards: int = 1) -> tuple[float, tuple[str, ...]]:
    """Bytes that scorers hold on the fullest of the `cards` that train a cell; and those that do not say theirs.

    Of several tasks the one with most counts. What has a process of its own shares its checkpoints with no other. Those
    on the CPU or on another card weigh nothing, and neither do those that a reward server could have, which is not
    asked here.
    """
    found = [_of_task(experiment, task, cards) for task in experiment.tasks]
    return max(size for size, _ in found), tuple(sorted({name for _, unknown in found for name in unknown}))


def _of_task(experiment: Experiment, task: Task, cards: int) -> tuple[float, list[str]]:
    sizes, unknown = dict[tuple[str, str], float](), list[str]()
    for name in sorted(scorers_of_task(task, experiment.evaluation.set_scorers)):
        cls = registry.load_reward(name)
        apart = experiment.scorers.get(cls.name)
        if apart is None and experiment.reward_server is not None:
            continue
        own = apart if apart is not None and apart.process else None
        copies = _copies(cls, own, experiment.device, cards)
        if copies and cls.held is None:
            unknown.append(cls.name)
        for checkpoint, gib in (cls.held or {}).items():
            sizes[cls.name if own else "", checkpoint] = copies * gib
    return sum(sizes.values()) * 2**30, unknown


def _copies(cls: type[Reward], own: ScorerProcess | None, device: str, cards: int) -> int:
    """How often a scorer with a process of its `own`, or without, lies on the card that trains, or on the fullest.

    Every process that trains starts a process of its own, on the card of the number that is asked for; on the first one
    where none is asked for, or on that of its rank.
    """
    requested = own.device if own else "auto"
    if requested == "cpu" or (requested == "auto" and cls.environment is not None):
        return 0
    trains = int(device.partition(":")[2] or 0)
    number = int(requested.partition(":")[2] or 0) if own else trains
    if cards == 1:
        return int(number == trains)
    return cards if ":" in requested and number < cards else int(":" not in requested)
