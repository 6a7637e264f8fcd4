"""AdamW with warm-up, clipping and an optional exponential moving average: the same for every method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.config.settings import Train
from bench.distributed.dtensors import clip_gradients, full_tensor, gradient_norm, is_sharded, shard_like


class Optimizer:
    """Takes the gradient that the method accumulated and makes exactly one update of it.

    The moving average follows the budget, not the update count: its half-life is a share of the budget, so that
    methods with few, dear updates and methods with many cheap ones are averaged over the same spending.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], train: Train, *, keeps_old: bool = False) -> None:
        """`keeps_old`: hold the weights of an old policy too, which are those of now until `update_old`."""
        self.parameters = parameters
        self._train = train
        self._is_sharded = any(map(is_sharded, parameters))
        self._adamw: Any = torch.optim.AdamW(
            parameters, lr=train.learning_rate, betas=(train.betas[0], train.betas[1]), weight_decay=train.weight_decay,
            fused=not self._is_sharded, foreach=self._is_sharded,
        )  # fmt: skip
        self._updates = 0
        self._average: list[Tensor] | None = None
        self._last_fraction = 0.0
        if train.ema_half_life:
            self._average = [p.detach().clone() for p in parameters]
        self._old = [p.detach().clone() for p in parameters] if keeps_old else []

    @property
    def keeps_old(self) -> bool:
        """Whether there is an old policy."""
        return bool(self._old)

    def zero_grad(self) -> None:
        """Forget the accumulated gradient."""
        self._adamw.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """The norm of the accumulated gradient before clipping, over all parts of it: a scalar on the device."""
        return gradient_norm(self.parameters)

    def step(self, norm: Tensor, fraction: float) -> None:
        """One update with the gradient clipped; `norm` is `gradient_norm`, `fraction` the share of the budget spent."""
        if self._is_sharded:
            clip_gradients(self.parameters, self._train.clip_norm, norm)
        else:  # the fused kernel divides each gradient as it reads it
            self._adamw.grad_scale = (norm / self._train.clip_norm).clamp(min=1).float()
        warmup = min(1.0, (self._updates + 1) / self._train.warmup_updates) if self._train.warmup_updates else 1.0
        for group in self._adamw.param_groups:
            group["lr"] = self._train.learning_rate * warmup
        self._adamw.step()
        self.zero_grad()
        self._updates += 1
        self._follow(fraction)

    @torch.no_grad()
    def _follow(self, fraction: float) -> None:
        if self._average is None:
            return
        keep = 0.5 ** ((fraction - self._last_fraction) / self._train.ema_half_life)
        self._last_fraction = fraction
        for average, p in zip(self._average, self.parameters, strict=True):
            average.lerp_(p, 1 - keep)

    @torch.no_grad()
    def update_old(self, decay: float) -> None:
        """The old policy's weights <- decay old + (1 - decay) those of now."""
        for old, p in zip(self._old, self.parameters, strict=True):
            old.lerp_(p, 1 - decay)

    @contextmanager
    def old_weights(self) -> Iterator[None]:
        """The model is the old policy inside. Its tensors are exchanged, not their values: a graph that waits for its
        backward pass stays whole."""
        now = [p.data for p in self.parameters]
        for old, p in zip(self._old, self.parameters, strict=True):
            p.data = old
        try:
            yield
        finally:
            for data, p in zip(now, self.parameters, strict=True):
                p.data = data

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange the weights with their moving average (for evaluation, and back); nothing where it is off."""
        if self._average is None:
            return
        for average, p in zip(self._average, self.parameters, strict=True):
            held = p.detach().clone()
            p.copy_(average)
            average.copy_(held)

    def tensors(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Weights, moments and averages by name, for a checkpoint; what ranks share out is whole, in main memory.

        Every rank has to ask at once; without `keep` it helps the others, and leaves out what is shared.
        """
        out: dict[str, Tensor] = {}
        for i, p in enumerate(self.parameters):
            held = {"weight": p, **self._adamw.state.get(p, {})}
            if self._average is not None:
                held["average"] = self._average[i]
            if self._old:
                held["old"] = self._old[i]
            for key, value in held.items():
                together = full_tensor(value.detach())
                if keep or not is_sharded(value):
                    out[f"{key}.{i}"] = together.cpu() if is_sharded(value) else together
        return out

    def state_dict(self) -> dict[str, Any]:
        """The counters, JSON-able."""
        return {"updates": self._updates, "last_fraction": self._last_fraction}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `tensors` and `state_dict`; the tensors may lie in main memory, and are brought one by one."""
        self._updates, self._last_fraction = state["updates"], state["last_fraction"]
        for i, p in enumerate(self.parameters):
            p.copy_(shard_like(tensors[f"weight.{i}"], p))
            if f"exp_avg.{i}" in tensors:
                names = ("exp_avg", "exp_avg_sq")
                self._adamw.state[p] = {name: shard_like(tensors[f"{name}.{i}"], p).clone() for name in names}
                counts = "cpu" if self._is_sharded else p.device  # where AdamW does
                self._adamw.state[p]["step"] = tensors[f"step.{i}"].to(counts, copy=True)
            if self._average is not None:
                self._average[i].copy_(shard_like(tensors[f"average.{i}"], p))
            if self._old:
                self._old[i].copy_(tensors[f"old.{i}"])
