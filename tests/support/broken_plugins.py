"""Plugins that are each broken in one way, as real code has been: the check that fails, and how, is their docstring."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from bench import flow
from bench.api import Batch, Env, Method, Needs, Option, Reward, Rollouts
from methods.sft import SFT


def loss(env: Env, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocity and flow-matching target of one micro-batch, as SFT has them."""
    z1, sigma = env.draw.noise(batch.index), env.draw.sigma(batch.index)
    v = env.model.velocity(flow.interpolate(batch.z0, z1, sigma), sigma, batch.cond)
    return v, flow.velocity_target(batch.z0, z1)


class CutGraph(SFT):
    """loss-gradients: the second term is computed from a detached velocity."""

    name: ClassVar[str] = "cut-graph"

    def step(self, env: Env) -> dict[str, float]:
        for batch in env.draw.batches():
            v, target = loss(env, batch)
            extra = flow.per_sample_mse(v.detach(), target)
            env.backward({"base": (1.0, flow.per_sample_mse(v, target)), "extra": (0.5, extra)}, env.batch_size)
        return env.update()


class UpdatePerMicroBatch(SFT):
    """one-update: the optimiser steps inside the loop over micro-batches."""

    name: ClassVar[str] = "update-per-micro-batch"

    def step(self, env: Env) -> dict[str, float]:
        metrics = {}
        for batch in env.draw.batches():
            v, target = loss(env, batch)
            env.backward({"base": (1.0, flow.per_sample_mse(v, target))}, env.batch_size)
            metrics = env.update()
        return metrics


class MicroBatchMean(SFT):
    """micro-batches: each micro-batch is averaged by its own size."""

    name: ClassVar[str] = "micro-batch-mean"

    def step(self, env: Env) -> dict[str, float]:
        for batch in env.draw.batches():
            v, target = loss(env, batch)
            env.backward({"base": (1.0, flow.per_sample_mse(v, target))}, len(batch))
        return env.update()


class IgnoredField(SFT):
    """config-fields: `rank` is accepted and never read."""

    name: ClassVar[str] = "ignored-field"

    @dataclass(frozen=True)
    class Config:
        """One setting that acts and one that does not."""

        weight: Annotated[float, Option("of the loss", gt=0)] = 1.0
        rank: Annotated[int, Option("ignored", ge=1)] = 4

    def step(self, env: Env) -> dict[str, float]:
        for batch in env.draw.batches():
            v, target = loss(env, batch)
            env.backward({"base": (self.config.weight, flow.per_sample_mse(v, target))}, env.batch_size)
        return env.update()


class DeclaredField(IgnoredField):
    """Nothing: the idle field is declared."""

    name: ClassVar[str] = "declared-field"
    inert: ClassVar[Mapping[str, str]] = {"rank": "kept for old settings files"}


class SeedEverything(SFT):
    """global-random-state: every step seeds all global generators."""

    name: ClassVar[str] = "seed-everything"

    def step(self, env: Env) -> dict[str, float]:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        return super().step(env)


class Uncharged(SFT):
    """ledger: the model is called behind the meter."""

    name: ClassVar[str] = "uncharged"

    def step(self, env: Env) -> dict[str, float]:
        for batch in env.draw.batches():
            z1, sigma = env.draw.noise(batch.index), env.draw.sigma(batch.index)
            z = flow.interpolate(batch.z0, z1, sigma)
            v = env.model._policy.velocity(z, sigma, batch.cond)  # type: ignore[attr-defined]
            target = flow.velocity_target(batch.z0, z1)
            env.backward({"base": (1.0, flow.per_sample_mse(v, target))}, env.batch_size)
        return env.update()


class TrainsFrozenParts(SFT):
    """frozen-parts: VAE and reference drift."""

    name: ClassVar[str] = "trains-frozen-parts"
    needs: ClassVar[Needs] = Needs(data=True, reference=True)

    def step(self, env: Env) -> dict[str, float]:
        model: Any = env.model
        with torch.no_grad():
            model._policy.pipeline.vae.decoder.conv_in.weight.add_(1e-3)
            model._reference._transformer.proj_out.weight.add_(1e-3)
        return super().step(env)


class TrainsUnderAdapters(SFT):
    """frozen-parts, with adapters alone: a weight that only training of all weights may change."""

    name: ClassVar[str] = "trains-under-adapters"

    def step(self, env: Env) -> dict[str, float]:
        model: Any = env.model
        with torch.no_grad():
            model._policy.transformer.proj_out.weight.add_(1e-3)
        return super().step(env)


class ForgetsOnLoad(SFT):
    """state-round-trip: the counter is stored, and not taken back."""

    name: ClassVar[str] = "forgets-on-load"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.steps = 0

    def step(self, env: Env) -> dict[str, float]:
        self.steps += 1
        return super().step(env)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class HiddenCounter(SFT):
    """resume: the loss depends on a counter that no checkpoint holds."""

    name: ClassVar[str] = "hidden-counter"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.steps = 0

    def step(self, env: Env) -> dict[str, float]:
        self.steps += 1
        for batch in env.draw.batches():
            v, target = loss(env, batch)
            env.backward({"base": (1.0 / self.steps, flow.per_sample_mse(v, target))}, env.batch_size)
        return env.update()


class WrongSign(SFT):
    """closed-form: the target points from noise to data."""

    name: ClassVar[str] = "wrong-sign"

    def step(self, env: Env) -> dict[str, float]:
        for batch in env.draw.batches():
            v, target = loss(env, batch)
            env.backward({"base": (1.0, flow.per_sample_mse(v, -target))}, env.batch_size)
        return env.update()


class SmallestRL(Method):
    """Nothing: policy gradient on the one SDE step of a two-step sampler, in groups of two."""

    name: ClassVar[str] = "smallest-rl"
    needs: ClassVar[Needs] = Needs(reward=True, log_prob=True)
    replayed_noise_level = 0.7

    @torch.no_grad()
    def collect(self, env: Env) -> Rollouts:
        prompts, prompt_index = env.draw.prompts(2)
        prompts, index = [p for p in prompts for _ in range(2)], np.arange(4) + 2 * prompt_index[0]
        cond, sigmas = env.model.encode([p.text for p in prompts]), env.model.sigmas(2)
        x = env.draw.noise(index, "rollout")
        v = env.model.velocity(x, sigmas[0].expand(4), cond)
        mean, std = flow.sde_mean_std(x, v, sigmas[0], sigmas[1], 0.7, sigmas[1])
        x_next = mean + std * env.draw.noise(index, "sde")
        tensors = {"x": x, "x_next": x_next, "log_prob": self.stored(flow.log_prob(x_next, mean, std), v)}
        z0 = flow.euler_step(x_next, env.model.velocity(x_next, sigmas[1].expand(4), cond), sigmas[1], sigmas[2])
        rewards = env.score(env.model.decode(z0), [p.text for p in prompts], [p.metadata for p in prompts])
        tensors["advantage"] = flow.group_advantages(torch.from_numpy(rewards).view(2, 2)).flatten()
        return Rollouts(tensors, cond, updates=1)

    def stored(self, log_prob: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return log_prob

    def step(self, env: Env) -> dict[str, float]:
        rollouts, sigmas = env.rollouts, env.model.sigmas(2)
        assert rollouts is not None
        ratios = []
        for rows in torch.arange(4).split(env.micro_batch):
            part = {name: tensor[rows] for name, tensor in rollouts.tensors.items()}
            v = env.model.velocity(part["x"], sigmas[0].expand(len(rows)), rollouts.cond[rows])
            mean, std = flow.sde_mean_std(part["x"], v, sigmas[0], sigmas[1], self.replayed_noise_level, sigmas[1])
            log_ratio = flow.log_prob(part["x_next"], mean, std) - part["log_prob"]
            env.backward({"policy": (1.0, flow.ppo_loss(log_ratio, part["advantage"], 0.1))}, count=4)
            ratios.append(log_ratio.detach().exp())
        return env.update({"ratio": torch.cat(ratios)})


class OtherNoiseLevel(SmallestRL):
    """replayed-ratio: training has another noise level than sampling had."""

    name: ClassVar[str] = "other-noise-level"
    replayed_noise_level = 0.71


class StoresInModelPrecision(SmallestRL):
    """replayed-ratio-bfloat16: log-probabilities are kept in the precision in which the model answered."""

    name: ClassVar[str] = "stores-in-model-precision"

    def stored(self, log_prob: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        in_bfloat16 = torch.equal(v, v.bfloat16().float())
        return log_prob.bfloat16().float() if in_bfloat16 else log_prob


class Brightness(Reward):
    """Nothing: the mean grey level, 0 to 1."""

    name: ClassVar[str] = "brightness"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return (images.reshape(len(images), -1).mean(1) / 255).astype(np.float32)


class CutGradient(Brightness):
    """gradient: the scores are those of a call, but their graph is cut."""

    name: ClassVar[str] = "cut-gradient"
    differentiable: ClassVar[bool] = True

    def scores(
        self, images: torch.Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> torch.Tensor:
        return images.detach().mean((1, 2, 3))


class RelativeBrightness(Brightness):
    """batch-equals-singles: scores are divided by the batch's largest."""

    name: ClassVar[str] = "relative-brightness"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        scores = super().__call__(images, prompts, metadata)
        return scores / max(scores.max(), 1e-6)


class SortedBrightness(Brightness):
    """order: scores come back in order of size."""

    name: ClassVar[str] = "sorted-brightness"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.sort(super().__call__(images, prompts, metadata))


class Squeezed(Brightness):
    """single-picture: the score of one picture is a number without a dimension."""

    name: ClassVar[str] = "squeezed"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return super().__call__(images, prompts, metadata).squeeze()


class OutOfRange(Brightness):
    """range: a white picture scores more than the range allows."""

    name: ClassVar[str] = "out-of-range"
    range: ClassVar[tuple[float, float]] = (0.0, 0.99)


class InPlace(Brightness):
    """pictures-unchanged: the pictures are inverted where they lie."""

    name: ClassVar[str] = "in-place"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        np.subtract(255, images, out=images)
        return super().__call__(images, prompts, metadata)


class Drifting(Brightness):
    """repeatable: the score falls from call to call."""

    name: ClassVar[str] = "drifting"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        self.calls += 1
        return (super().__call__(images, prompts, metadata) / (1 + 0.01 * self.calls)).astype(np.float32)


class NotANumber(Brightness):
    """trl: NaN for prompts that it cannot judge, where `applies` should say so."""

    name: ClassVar[str] = "not-a-number"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        known = np.array(["a" in prompt.split() for prompt in prompts])
        return np.where(known, super().__call__(images, prompts, metadata), np.float32("nan"))
