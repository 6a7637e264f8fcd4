"""The closed-form world in a bare environment: one prompt for each mode, a plain optimiser, counted passes.

No clipping and no decay stand between a loss and its update here, so that both can be worked out by hand; the harness's
own environment on the same formula is `bench.preflight.conformance.closed_form_check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import flow, rng
from bench.api import Batch, Condition, Method, Prompt, Rollouts
from bench.datasets.mixture import DEVIATION, MEANS, SHIFT, TEXTS, ClosedFormPolicy, Labels, MixtureField
from bench.models.velocity import branches, guided


class ClosedFormModel:
    """Implements `bench.api.Model` and counts its passes."""

    latent_shape = (2,)
    device = torch.device("cpu")
    shift = SHIFT

    def __init__(self, field: MixtureField) -> None:
        self.policy = ClosedFormPolicy(field)
        self.field = field
        self.reference = self.policy.frozen_copy().field
        self.old = self.policy.frozen_copy().field
        self.passes = {"grad": 0, "no_grad": 0, "reference": 0}
        self.null, self.encode = self.policy.null, self.policy.encode
        self.sigmas, self.decode = self.policy.sigmas, self.policy.decode
        self.decode_with_gradient = self.policy.decode_with_gradient

    def velocity(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        self.passes["grad" if torch.is_grad_enabled() else "no_grad"] += len(x)
        return self.policy.velocity(x, sigma, cond)

    def velocity_branches(self, x: Tensor, sigma: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return branches(self.velocity, self.null, x, sigma, cond)

    def guided_velocity(self, x: Tensor, sigma: Tensor, cond: Condition, scale: float) -> Tensor:
        return guided(self, self.velocity, x, sigma, cond, scale)

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        return flow.guide(v_u, v_c, scale)

    @torch.no_grad()
    def reference_velocity(self, x: Tensor, sigma: Tensor, cond: Any, scale: float = 1.0) -> Tensor:
        self.passes["reference"] += len(x)
        reference = ClosedFormPolicy(self.reference).velocity
        return guided(self, reference, x, sigma, cond, scale)

    @torch.no_grad()
    def old_velocity(self, x: Tensor, sigma: Tensor, cond: Any, scale: float = 1.0) -> Tensor:
        self.passes["no_grad"] += len(x)
        return guided(self, ClosedFormPolicy(self.old).velocity, x, sigma, cond, scale)


class ClosedFormDraw:
    """Implements `bench.api.Draw`: exact samples of the classes; of `pairs` the rejected one is of the next class."""

    def __init__(self, seed: int, batch_size: int, micro_batch: int, *, pairs: bool = False) -> None:
        self.seed, self.batch_size, self.micro_batch, self.pairs = seed, batch_size, micro_batch, pairs
        self.samples = self.prompts_drawn = 0

    def batches(self) -> Iterator[Batch]:
        index = np.arange(self.samples, self.samples + self.batch_size)
        self.samples += self.batch_size
        for start in range(0, self.batch_size, self.micro_batch):
            part = index[start : start + self.micro_batch]
            label = torch.from_numpy(part % len(TEXTS))
            z0 = MEANS[label] + DEVIATION * self.noise(part, "data")
            texts = [TEXTS[i] for i in label]
            other = MEANS[(label + 1) % len(TEXTS)] + DEVIATION * self.noise(part, "data.rejected")
            metadata = [{"tag": text} for text in texts]
            yield Batch(z0, Labels(label), texts, metadata, part, other if self.pairs else None)

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
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        lr: float = 0.1,
        seed: int = 0,
        batch_size: int = 16,
        micro_batch: int = 16,
        pairs: bool = False,
    ) -> None:
        field = MixtureField(means, torch.full((len(means),), deviation), torch.eye(len(means)))
        field.logits.requires_grad_(False)
        self.model = ClosedFormModel(field)
        self.draw = ClosedFormDraw(seed, batch_size, micro_batch, pairs=pairs)
        self.batch_size, self.micro_batch, self.reward = batch_size, micro_batch, reward
        self.rollouts: Rollouts | None = None
        self.optimizer = optimizer([field.means, field.log_deviation], lr=lr)
        self.logged: dict[str, list[Tensor]] = {}
        self.skipped = self.backward_samples = 0
        self.scores_groups = False

    @property
    def weights(self) -> Tensor:
        """All trained numbers (12,)."""
        return torch.cat([p.detach().flatten() for p in (self.model.field.means, self.model.field.log_deviation)])

    def score(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        assert self.reward is not None
        return self.reward(images).astype(np.float32)

    def submit(
        self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Callable[[], np.ndarray]:
        scores = self.score(images, prompts, metadata)
        return lambda: scores

    def score_with_gradient(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        return images[:, 0, 0, 0]  # rises with the first coordinate

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def backward(self, terms: Mapping[str, tuple[float, Tensor]], count: float) -> None:
        total = torch.zeros(())
        for name, (weight, loss) in terms.items():
            self.logged.setdefault(name, []).append(loss.detach())
            if weight:
                total = total + weight * loss.sum() / count
        total.backward()
        self.backward_samples += len(loss)

    def update(self, metrics: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        self.optimizer.step()
        return {**self._flush(), **{name: float(values.mean()) for name, values in (metrics or {}).items()}}

    @torch.no_grad()
    def update_old(self, decay: float) -> None:
        for old, new in zip(self.model.old.parameters(), self.model.field.parameters(), strict=True):
            if new.requires_grad:
                old.mul_(decay).add_(new, alpha=1 - decay)

    def skip_update(self, reason: str) -> dict[str, float]:
        self.skipped += 1
        return self._flush()

    def _flush(self) -> dict[str, float]:
        self.optimizer.zero_grad()
        logged = {name: float(torch.cat(values).mean()) for name, values in self.logged.items()}
        self.logged = {}
        return logged


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
