"""A world whose velocity field is known exactly: Gaussian classes, a real model, real gradients, a real optimiser.

Class c has data N(mean_c, deviation^2 I) in two dimensions. Its exact velocity is affine in the state, so the model is
the formula itself with the means and the log-deviation as weights: training has to find them, and the answer is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import flow, rng
from bench.api import Batch, Condition, Method, Prompt, Rollouts

TEXTS = ("left", "right", "up", "down")
MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
DEVIATION = 0.5
SCALE = 32.0  # grey levels per unit of latent
SHIFT = 3.0


@dataclass(frozen=True)
class Labels:
    """Class numbers (B,); -1 is the empty prompt."""

    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Any) -> Labels:
        return Labels(self.label[index])


class GaussianField(torch.nn.Module):
    """E[z1 - z0 | z_sigma = x] of Gaussian classes; of their equal mixture for the empty prompt."""

    def __init__(self, means: Tensor, deviation: float) -> None:
        super().__init__()
        self.means = torch.nn.Parameter(means.clone())
        self.log_deviation = torch.nn.Parameter(torch.tensor(math.log(deviation)))

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        s = sigma[:, None, None]
        tau2 = (2 * self.log_deviation).exp()
        variance = (1 - s) ** 2 * tau2 + s**2
        residual = x[:, None] - (1 - s) * self.means
        v = (s - (1 - s) * tau2) * residual / variance - self.means  # (B, classes, 2)
        posterior = torch.softmax(-(residual**2 / variance).sum(2) / 2, 1)
        one_hot = torch.nn.functional.one_hot(label.clamp(min=0), len(self.means)).to(x.dtype)
        weight = torch.where(label[:, None] < 0, posterior, one_hot)
        return (weight[:, :, None] * v).sum(1)


class ClosedFormModel:
    """Implements `bench.api.Model` and counts its passes."""

    latent_shape = (2,)
    device = torch.device("cpu")
    shift = SHIFT

    def __init__(self, field: GaussianField) -> None:
        self.field = field
        self.reference = GaussianField(field.means.detach(), float(field.log_deviation.detach().exp()))
        self.passes = {"grad": 0, "no_grad": 0, "reference": 0}

    def velocity(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        self.passes["grad" if torch.is_grad_enabled() else "no_grad"] += len(x)
        return self.field(x, sigma, cond.label)

    def guided_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float) -> Tensor:
        if scale == 1:
            return self.velocity(x, sigma, cond)
        return flow.guide(self.velocity(x, sigma, self.null(cond)), self.velocity(x, sigma, cond), scale)

    @torch.no_grad()
    def reference_velocity(self, x: Tensor, sigma: Tensor, cond: Any, scale: float = 1.0) -> Tensor:
        self.passes["reference"] += len(x)
        v_c = self.reference(x, sigma, cond.label)
        return v_c if scale == 1 else flow.guide(self.reference(x, sigma, torch.full_like(cond.label, -1)), v_c, scale)

    def null(self, cond: Any) -> Labels:
        return Labels(torch.full_like(cond.label, -1))

    def encode(self, prompts: Sequence[str]) -> Labels:
        return Labels(torch.tensor([TEXTS.index(p) if p else -1 for p in prompts]))

    def sigmas(self, steps: int) -> Tensor:
        return flow.sigma_schedule(steps, self.shift)

    def decode(self, z0: Tensor) -> np.ndarray:
        """The two coordinates as the grey levels of a picture of 1 x 2 pixels."""
        grey = (128 + SCALE * z0.detach()).round().clamp(0, 255).to(torch.uint8).numpy()
        return np.repeat(grey[:, None, :, None], 3, axis=3)


class ClosedFormDraw:
    """Implements `bench.api.Draw`: exact samples of the classes."""

    def __init__(self, seed: int, batch_size: int, micro_batch: int) -> None:
        self.seed, self.batch_size, self.micro_batch = seed, batch_size, micro_batch
        self.samples = self.prompts_drawn = 0

    def batches(self) -> Iterator[Batch]:
        index = np.arange(self.samples, self.samples + self.batch_size)
        self.samples += self.batch_size
        for start in range(0, self.batch_size, self.micro_batch):
            part = index[start : start + self.micro_batch]
            label = torch.from_numpy(part % len(TEXTS))
            z0 = MEANS[label] + DEVIATION * self.noise(part, "data")
            texts = [TEXTS[i] for i in label]
            yield Batch(z0, Labels(label), texts, [{"tag": text} for text in texts], part)

    def prompts(self, count: int) -> tuple[list[Prompt], np.ndarray]:
        per_epoch = len(TEXTS) // count
        epoch, group = divmod(self.prompts_drawn // count, per_epoch)
        order = rng.permutation(self.seed, "prompt_order", epoch, len(TEXTS))[group * count : (group + 1) * count]
        index = np.arange(self.prompts_drawn, self.prompts_drawn + count)
        self.prompts_drawn += count
        return [Prompt(int(i), TEXTS[i], {"tag": TEXTS[i]}) for i in order], index

    def noise(self, index: np.ndarray, name: str = "z1") -> Tensor:
        return torch.from_numpy(rng.normal(self.seed, name, index, (2,)))

    def uniform(self, index: np.ndarray, name: str) -> Tensor:
        return torch.from_numpy(np.minimum(rng.uniform(self.seed, name, index), 1 - 2**-24).astype(np.float32))

    def sigma(self, index: np.ndarray, name: str = "sigma") -> Tensor:
        return flow.shift_sigma(torch.sigmoid(torch.from_numpy(rng.normal(self.seed, name, index, ()))), SHIFT)


class ClosedFormEnv:
    """Implements `bench.api.Env` around one optimiser."""

    def __init__(
        self,
        *,
        reward: Callable[[np.ndarray], np.ndarray] | None = None,
        means: Tensor = 0.5 * MEANS,
        deviation: float = DEVIATION,
        optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        lr: float = 0.1,
        seed: int = 0,
        batch_size: int = 16,
        micro_batch: int = 16,
    ) -> None:
        self.model = ClosedFormModel(GaussianField(means, deviation))
        self.draw = ClosedFormDraw(seed, batch_size, micro_batch)
        self.batch_size, self.micro_batch, self.reward = batch_size, micro_batch, reward
        self.rollouts: Rollouts | None = None
        self.optimiser = optimiser(self.model.field.parameters(), lr=lr)
        self.logged: dict[str, list[Tensor]] = {}
        self.skipped = self.backward_samples = 0

    @property
    def weights(self) -> Tensor:
        """All trained numbers (9,)."""
        return torch.cat([p.detach().flatten() for p in self.model.field.parameters()])

    def score(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        assert self.reward is not None
        return self.reward(images).astype(np.float32)

    def backward(self, terms: Mapping[str, tuple[float, Tensor]], count: float) -> None:
        total = torch.zeros(())
        for name, (weight, loss) in terms.items():
            self.logged.setdefault(name, []).append(loss.detach())
            if weight:
                total = total + weight * loss.sum() / count
        total.backward()
        self.backward_samples += len(loss)

    def update(self, metrics: Mapping[str, float] | None = None) -> dict[str, float]:
        self.optimiser.step()
        return self._flush(metrics or {})

    def skip_update(self, reason: str) -> dict[str, float]:
        self.skipped += 1
        return self._flush({})

    def _flush(self, metrics: Mapping[str, float]) -> dict[str, float]:
        self.optimiser.zero_grad()
        logged = {name: float(torch.cat(values).mean()) for name, values in self.logged.items()}
        self.logged = {}
        return {**logged, **metrics}


def train(method: Method, env: ClosedFormEnv, updates: int) -> list[dict[str, float]]:
    """The runner's loop in small: fill the buffer where the method needs one, then step."""
    history = []
    for _ in range(updates):
        if method.collects() and (env.rollouts is None or env.rollouts.used == env.rollouts.updates):
            env.rollouts = method.collect(env)
        history.append(method.step(env))
        if env.rollouts is not None:
            env.rollouts.used += 1
    return history
