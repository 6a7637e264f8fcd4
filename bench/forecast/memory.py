"""Memory of a stage by part, and what is there at once in each of its phases."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.configuration.settings import Experiment, Train
from bench.forecast.live_memory import Pass, decoding, peaks
from bench.forecast.shapes import Shapes
from bench.model.loading import ENCODERS

Parts = dict[str, float]

_MENDS = {
    "activations": "--train.gradient_checkpointing true, or a lower --train.micro_batch",
    "a sampling pass": "a lower --evaluation.batch_size and --train.micro_batch",
    "gradients": "--train.adaptation lora",
    "AdamW's moments": "--train.adaptation lora",
    "a step of AdamW": "--train.adaptation lora",
    "reference": "--train.adaptation lora",
    "moving average": "--train.ema_half_life 0",
    "text encoders": "--runtime.park_encoders true, or --runtime.frozen_weights bfloat16, or --runtime.t5 false",
    "rollouts": "fewer pictures by rollout phase",
    "rollouts, gathered": "fewer pictures by rollout phase",
    "denoiser": "--runtime.denoiser_weights bfloat16 (LoRA alone)",
    "base, for drift": "--runtime.denoiser_weights bfloat16 (LoRA alone)",
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

    def mends(self, train: Train) -> list[str]:
        """Settings that make the fullest phase smaller and are not in use yet, what helps most first."""
        parts = {**self.resident, **self.phases[self.fullest]}
        used = {"--train.adaptation lora": train.adaptation == "lora"}
        found: list[str] = []
        for name in sorted(parts, key=lambda part: -parts[part]):
            mend = _MENDS.get(name)
            if name == "activations" and train.gradient_checkpointing:
                mend = "a lower --train.micro_batch"
            if mend and parts[name] and mend not in found and not used.get(mend):
                found.append(mend)
        return found


class Scales:
    """Weighs the stages of one experiment; equal passes are weighed once."""

    def __init__(self, experiment: Experiment, shapes: Shapes) -> None:
        self._experiment = experiment
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
            "base, for drift": denoiser,
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
