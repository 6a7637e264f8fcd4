"""Memory of a stage by part, and what is there at once in each of its phases."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.config.settings import Experiment, Runtime, Train
from bench.models.loading import ENCODERS
from bench.preflight.forecast.live_memory import Pass, decoding, peaks
from bench.preflight.forecast.shapes import Shapes

Parts = dict[str, float]

_LORA = ("--train.adaptation lora",)
_HELD = ("--runtime.denoiser_weights bfloat16 (LoRA alone)",)
_MENDS = {
    "activations": ("--train.gradient_checkpointing true", "a lower --train.micro_batch"),
    "a sampling pass": ("a lower --evaluation.batch_size and --train.micro_batch",),
    "gradients": _LORA,
    "AdamW's moments": _LORA,
    "a step of AdamW": _LORA,
    "reference": _LORA,
    "moving average": ("--train.ema_half_life 0",),
    "scorers": ("--scorers.NAME.device cpu, or that of a card which does not train, for those that only judge",),
    "text encoders": ("--runtime.park_encoders true", "--runtime.frozen_weights bfloat16", "--runtime.t5 false"),
    "rollouts": ("fewer pictures by rollout phase",),
    "rollouts, gathered": ("fewer pictures by rollout phase",),
    "denoiser": _HELD,
    "base, for drift": (*_HELD, "--evaluation.drift_states 0"),
}


@dataclass(frozen=True)
class Memory:
    """Bytes of a stage's parts that are always there, and of those that each phase has beside them."""

    resident: Parts
    phases: dict[str, Parts]

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
            "--runtime.t5 false": not runtime.t5,
            _HELD[0]: runtime.denoiser_weights == "bfloat16",
        }
        found = dict[str, None]()
        for name in sorted(filter(parts.get, parts), key=lambda part: -parts[part]):
            left = [mend for mend in _MENDS.get(name, ()) if not in_use.get(mend)]
            found |= {", or ".join(left): None} if left else {}
        return list(found)


class Scales:
    """Weighs the stages of one experiment; equal passes are weighed once."""

    def __init__(self, experiment: Experiment, shapes: Shapes, scorers: float = 0.0) -> None:
        """`scorers` are the bytes that they hold."""
        self._experiment = experiment
        self._scorers = scorers
        self._shapes = shapes
        self._known: dict[str, float] = {}

    def memory(self, train: Train, trained: int, *, reference: bool, rollouts: float) -> Memory:
        """Memory of a stage that trains `trained` weights; `rollouts` are the bytes it keeps of them."""
        shapes, runtime = self._shapes, self._experiment.runtime
        denoiser, encoders = shapes.bytes_of("transformer"), shapes.bytes_of(*ENCODERS)
        full = train.adaptation == "full"
        resident: Parts = {
            "denoiser": denoiser,
            "adapters": 0 if full else 4 * trained,
            "VAE": shapes.bytes_of("vae"),
            "text encoders": 0 if runtime.park_encoders else encoders,
            "base, for drift": denoiser if self._experiment.evaluation.drift_states else 0,
            "scorers": self._scorers,
            "reference": denoiser if reference and full else 0,
            "moving average": 4 * trained if train.ema_half_life else 0,
        }
        moments = {"AdamW's moments": 8.0 * trained, "rollouts": rollouts}
        updating = {**moments, "gradients": 4.0 * trained}
        sampling = self._pass(train, gradient=False)
        phases: dict[str, Parts] = {
            "training passes": {**updating, "activations": self._pass(train, gradient=True)},
            "optimiser's step": {**updating, "a step of AdamW": 4.0 * trained},
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
        return Memory(resident, phases)

    def _pass(self, train: Train, *, gradient: bool) -> float:
        """Bytes of a pass of a micro-batch with gradient, or of the largest one without."""
        batch = train.micro_batch if gradient else max(train.micro_batch, self._experiment.evaluation.batch_size)
        batch = min(batch, train.batch_size) if gradient else batch
        what = Pass(self._shapes.latent, self._shapes.text_length, batch, gradient)
        alike = dataclasses.replace(
            train, learning_rate=1.0, weight_decay=0.0, ema_half_life=0.0, warmup_updates=0, batch_size=1,
            micro_batch=1, gradient_checkpointing=train.gradient_checkpointing and gradient,
        )  # fmt: skip
        key = f"{alike} {what}"
        if key not in self._known:
            parts: Any = self._shapes.pipeline
            config = dict(parts.transformer.config)
            self._known[key] = peaks(config, parts.vae, alike, self._shapes.runtime, what).most
        return self._known[key]

    def _decoding(self) -> float:
        if "decoding" not in self._known:
            held = self._shapes.runtime.frozen_weights
            self._known["decoding"] = decoding(self._shapes.pipeline.vae, self._shapes.latent, held)
        return self._known["decoding"]
