"""A world whose velocity field is known exactly: a Gaussian mixture in the plane, and a policy that is its formula.

A prompt's law is a mixture of modes N(mean_k, deviation_k^2 I). The exact velocity of such a mixture is a formula of
its moments, so the model is that formula with the moments as weights: training has to find them, and the answer is
known. Everything else (environment, optimiser, ledger, noise) is the harness's own.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench import flow, rng
from bench.api import Prompt, Reward
from bench.datasets.dataset import Dataset

TEXTS = ("left", "right", "up", "down")
MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
DEVIATION = 0.5
# A prompt names its own mode, but not surely: so guidance has something to sharpen, and a reward something to shift.
WEIGHTS = torch.full((len(TEXTS), len(MEANS)), 0.2).fill_diagonal_(0.4)
REWARDED = 1
SHIFT = 3.0
GREY_LEVELS = 32.0  # per unit of latent
SUPPORT = 3.5  # deviations; of a Gaussian in the plane 0.2 % lies further out


@dataclass(frozen=True)
class Labels:
    """Rows of the table of mode weights (B,); -1, its last row, is the empty prompt."""

    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Any) -> Labels:
        return Labels(self.label[index])

    @staticmethod
    def cat(parts: Sequence[Labels]) -> Labels:
        """One batch of several."""
        return Labels(torch.cat([p.label for p in parts]))


class MixtureField(torch.nn.Module):
    """E[z1 - z0 | z_sigma = x] where z0 is drawn from the mixture of one label.

    means (K, 2); deviation (K,); weights (P, K) of the modes under each prompt. The empty prompt's weights are their
    mean: prompts are equally frequent.
    """

    def __init__(self, means: Tensor, deviation: Tensor, weights: Tensor) -> None:
        super().__init__()
        table = torch.cat([weights, weights.mean(0, keepdim=True)])
        self.means = torch.nn.Parameter(means.clone())
        self.log_deviation = torch.nn.Parameter(deviation.log())
        self.logits = torch.nn.Parameter(table.log())

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """Velocity (B, 2) at x (B, 2), sigma (B,), label (B,): each mode's velocity, weighted by its posterior."""
        s = sigma[:, None, None]
        tau2 = (2 * self.log_deviation).exp()[:, None]
        variance = (1 - s) ** 2 * tau2 + s**2  # (B, K, 1)
        residual = x[:, None] - (1 - s) * self.means
        v = (s - (1 - s) * tau2) * residual / variance - self.means  # (B, K, 2)
        log_density = -(residual**2 / variance).sum(2) / 2 - variance[:, :, 0].log()
        posterior = torch.softmax(self.logits[label] + log_density, 1)
        return (posterior[:, :, None] * v).sum(1)


class ClosedFormPolicy:
    """Implements `bench.models.policy.Policy` around a `MixtureField`."""

    def __init__(self, field: MixtureField) -> None:
        self.field = field
        self.latent_shape: tuple[int, ...] = (2,)
        self.device = torch.device("cpu")
        self.shift = SHIFT

    @classmethod
    def exact(cls) -> ClosedFormPolicy:
        """The policy whose law is the data's."""
        return cls(MixtureField(MEANS, torch.full((len(MEANS),), DEVIATION), WEIGHTS))

    @classmethod
    def astray(cls) -> ClosedFormPolicy:
        """A policy to be trained: its modes lie too near, are too wide, and every prompt gives all of them alike."""
        return cls(MixtureField(0.75 * MEANS, torch.full((len(MEANS),), 0.7), torch.full_like(WEIGHTS, 0.25)))

    def velocity(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        """Velocity (B, 2) at x (B, 2), sigma (B,)."""
        return self.field(x, sigma, cond.label)

    def tensors(self) -> dict[str, Tensor]:
        """Weights by name."""
        return dict(self.field.named_parameters())

    def encode(self, prompts: Sequence[str]) -> Labels:
        """Texts of `TEXTS`, or the empty one, to labels."""
        return Labels(torch.tensor([TEXTS.index(text) if text else -1 for text in prompts]))

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """v_u + scale (v_c - v_u) (B, *S)."""
        return flow.guide(v_u, v_c, scale)

    def null(self, cond: Any) -> Labels:
        """The empty prompt, as many rows as `cond` has."""
        return Labels(torch.full_like(cond.label, -1))

    def sigmas(self, steps: int) -> Tensor:
        """The sampling schedule (steps + 1,)."""
        return flow.sigma_schedule(steps, self.shift)

    def decode(self, z0: Tensor) -> np.ndarray:
        """The two coordinates (B, 2) as the grey levels of pictures (B, 1, 2, 3)."""
        grey = (128 + GREY_LEVELS * z0.detach()).round().clamp(0, 255).to(torch.uint8).numpy()
        return np.repeat(grey[:, None, :, None], 3, axis=3)

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """The two coordinates (B, 2) as pictures float32 (B, 3, 1, 2) in [0, 1]."""
        return ((128 + GREY_LEVELS * z0) / 255).clamp(0, 1)[:, None, None, :].expand(-1, 3, -1, -1)

    def frozen_copy(self) -> ClosedFormPolicy:
        """The policy as it is now."""
        frozen = copy.deepcopy(self.field).requires_grad_(False)
        return ClosedFormPolicy(frozen)

    @torch.no_grad()
    def sample(self, count: int, steps: int = 40) -> Tensor:
        """Latents (prompts, count, 2) by the Euler ODE sampler without guidance, always from the same noise."""
        label = torch.arange(len(TEXTS)).repeat_interleave(count)
        x, cond = torch.from_numpy(rng.normal(0, "closed_form", range(len(label)), (2,))), Labels(label)
        for s, s_next in itertools.pairwise(self.sigmas(steps)):
            x = flow.euler_step(x, self.velocity(x, s.expand(len(x)), cond), s, s_next)
        return x.view(len(TEXTS), count, 2)


def dataset() -> Dataset:
    """The exact law as supervised data: modes with their deviation, of which every draw is a fresh sample."""
    share = (WEIGHTS / WEIGHTS.min()).round().long()  # rows of each mode under each prompt
    pairs = [(p, k) for p, row in enumerate(share.tolist()) for k, count in enumerate(row) for _ in range(count)]
    texts = [TEXTS[p] for p, _ in pairs]
    mean = MEANS[[k for _, k in pairs]]
    return Dataset.in_memory(mean, torch.full_like(mean, DEVIATION), texts, [{"tag": text} for text in texts])


def pairs() -> Dataset:
    """Pairs of the exact law as supervised data: the rewarded mode is chosen, each of the others rejected for it."""
    rows = [(text, mode) for text in TEXTS for mode in range(len(MEANS)) if mode != REWARDED]
    rejected = MEANS[[mode for _, mode in rows]]
    mean, texts = MEANS[REWARDED].expand_as(rejected), [text for text, _ in rows]
    std = torch.full_like(rejected, DEVIATION)
    return Dataset.in_memory(mean, std, texts, [{"tag": text} for text in texts], rejected)


def prompts(count: int) -> list[Prompt]:
    """`count` training prompts, each text equally often."""
    return [Prompt(i, TEXTS[i % len(TEXTS)], {"tag": TEXTS[i % len(TEXTS)]}) for i in range(count)]


class RewardedMode(Reward):
    """1 where the picture lies in the support of the rewarded mode, else 0."""

    name: ClassVar[str] = "closed-form-mode"
    gold: ClassVar[bool] = True

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in {0, 1} of uint8 (B, 1, 2, 3)."""
        place = (images[:, 0, :, 0].astype(np.float32) - 128) / GREY_LEVELS
        distance = np.linalg.norm(place - MEANS[REWARDED].numpy(), axis=1)
        return (distance < SUPPORT * DEVIATION).astype(np.float32)


class NearRewardedMode(Reward):
    """exp(-d^2/8) with d the distance from the mean of the rewarded mode: a reward with a gradient."""

    name: ClassVar[str] = "closed-form-near"
    gold: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores (B,) float32 in [0, 1] of uint8 (B, 1, 2, 3)."""
        return self.scores(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, prompts, metadata).numpy()

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        """The same of float32 (B, 3, 1, 2) in [0, 1], with gradient."""
        place = (255 * images[:, 0, 0] - 128) / GREY_LEVELS
        return torch.exp(-(place - MEANS[REWARDED]).square().sum(1) / 8)


@dataclass(frozen=True)
class Moments:
    """What samples look like beside the data's modes, over all prompts.

    mass (P, K) of each mode under each prompt, by the nearest mean; mean (K, 2) and deviation (K,) within each mode;
    off_support: share of samples further than `SUPPORT` deviations from every mode.
    """

    mass: Tensor
    mean: Tensor
    deviation: Tensor
    off_support: float

    @classmethod
    def of(cls, samples: Tensor) -> Moments:
        """The moments of samples (P, N, 2); a mode without samples has deviation 0 at the origin."""
        distance = torch.cdist(samples, MEANS.expand(len(samples), -1, -1))
        near = torch.nn.functional.one_hot(distance.argmin(2), len(MEANS)).to(samples.dtype)  # (P, N, K)
        count = near.sum((0, 1)).clamp(min=1)
        mean = torch.einsum("pnk,pnd->kd", near, samples) / count[:, None]
        square = torch.einsum("pnk,pnd->k", near, samples**2) / count - (mean**2).sum(1)
        off = (distance.amin(2) > SUPPORT * DEVIATION).double().mean()
        return cls(near.mean(1), mean, (square / 2).clamp(min=0).sqrt(), float(off))
