"""Evaluation: common-noise sampling, every scorer per sample, diversity, drift from the base. Never charged.

The initial noise of a sample is keyed by its prompt alone, so all methods, seeds and milestones see the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench import flow, rng
from bench.api import Prompt
from bench.configuration.settings import Evaluation
from bench.model.policy import Frozen, SD3Policy, VelocityField
from bench.processes.ranks import ALONE, Ranks
from bench.scorers.scorer import Scorer
from bench.tasks.definitions import Task
from bench.tasks.world import World

NOISE_SEED = 0  # of evaluation; one for all
PATH_STEPS = 10
PATH_NOISE = 0.7  # Flow-GRPO's noise level, arXiv 2505.05470

Job = tuple[str, Prompt]  # split and prompt
Frame = dict[str, Any]
Tick = Callable[[float], None]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Judgement:
    """One evaluation: per-sample columns, and what summarises them."""

    frame: Frame
    scores: dict[str, dict[str, Any]]
    diversity: float | None
    drift: dict[str, float]


class Evaluator:
    """Judges any policy of one task: fixed prompts, fixed noise, fixed states. Several ranks share out the samples."""

    def __init__(
        self, world: World, task: Task, settings: Evaluation, scorers: Mapping[str, Scorer], base: SD3Policy,
        tick: Tick = lambda fraction: None, ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self._world = world
        self._settings = settings
        self._scorers = scorers
        self._tick = tick
        self._ranks = ranks
        categories = task.categories or world.categories
        self._prompts = world.prompts(settings.split, categories, settings.final_prompts)
        self._held_out = (
            world.prompts("held_out", categories, settings.held_out_prompts) if settings.held_out_prompts else []
        )
        base.texts.prepare([p.text for p in (*self._prompts, *self._held_out)])
        self._base: Frozen = base.frozen_copy()
        if settings.drift_states:
            self._states, self._state_sigma, self._state_texts = self._fixed_states(base, categories)

    def judge(self, policy: SD3Policy, update: int, *, final: bool) -> Judgement:
        """Sample and score the prompts of a milestone, or all of them and the held-out ones at the end."""
        settings = self._settings
        prompts = self._prompts if final else self._prompts[: settings.milestone_prompts]
        jobs = [(settings.split, p) for p in prompts] + ([("held_out", p) for p in self._held_out] if final else [])
        frame = self._score(policy, jobs, settings.guidance, settings.steps, update)
        reported = np.array(frame["split"]) == settings.split
        return Judgement(
            frame=frame,
            scores={name: _summary(frame, name, reported) for name in self._scorers if self._applies(frame, name)},
            diversity=self._diversity(policy) if final and settings.diversity_prompts else None,
            drift=self._drift(policy) if settings.drift_states else {},
        )

    def grid(self, policy: SD3Policy, update: int) -> Frame | None:
        """The guidance x steps grid on the first prompts; None where the settings ask for none."""
        settings = self._settings
        jobs = [(settings.split, p) for p in self._prompts[: settings.grid_prompts]]
        frames = [
            self._score(policy, jobs, guidance, steps, update)
            for guidance in settings.grid_guidance
            for steps in settings.grid_steps
        ]
        if not frames:
            return None
        return _joined(frames)

    def pictures(self, policy: SD3Policy) -> tuple[bytes, list[Prompt], tuple[int, int]]:
        """A PNG with one row of tiles, its prompts, and a tile's (width, height)."""
        settings = self._settings
        prompts = self._prompts[: settings.pictures]
        jobs = [(settings.split, p) for p in prompts]
        sampled = self._share(jobs, lambda part: self._sample(policy, part, settings.guidance, settings.steps, "z1"))
        images = np.concatenate(sampled)
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(list(images), axis=1)).save(buffer, format="PNG")
        return buffer.getvalue(), prompts, (images.shape[2], images.shape[1])

    def _applies(self, frame: Frame, name: str) -> bool:
        return bool(np.isfinite(frame[name]).any())

    def _share(self, jobs: Sequence[Job], work: Callable[[Sequence[Job]], _Result]) -> list[_Result]:
        """`work` of every batch of jobs, in order."""
        size = self._settings.batch_size
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        ticked = 0

        def ticking(batch: Sequence[Job]) -> _Result:
            nonlocal ticked
            ticked += self._ranks.size
            done = work(batch)
            self._tick(min(1.0, ticked / len(batches)))
            return done

        return self._ranks.share(batches, ticking)

    def _score(self, policy: SD3Policy, jobs: Sequence[Job], guidance: float, steps: int, update: int) -> Frame:
        """Sample and score; the columns of all jobs."""
        return _joined(self._share(jobs, lambda part: self._scored(policy, part, guidance, steps, update)))

    def _scored(self, policy: SD3Policy, jobs: Sequence[Job], guidance: float, steps: int, update: int) -> Frame:
        images = self._sample(policy, jobs, guidance, steps, "z1")
        prompts = [p for _, p in jobs]
        texts, metadata = [p.text for p in prompts], [p.metadata for p in prompts]
        frame: Frame = {
            "prompt_index": np.array([p.index for p in prompts], np.int32),
            "category": np.array([p.category for p in prompts], object),
            "split": np.array([split for split, _ in jobs], object),
            "guidance": np.full(len(jobs), guidance, np.float32),
            "steps": np.full(len(jobs), steps, np.int32),
            "update": np.full(len(jobs), update, np.int32),
        }
        for name, scorer in self._scorers.items():
            frame[name] = scorer.where_it_applies(images, texts, metadata)
        return frame

    def _sample(self, policy: SD3Policy, jobs: Sequence[Job], guidance: float, steps: int, noise: str) -> np.ndarray:
        """Pictures of one batch."""
        z1 = np.concatenate(
            [rng.normal(NOISE_SEED, f"evaluate/{split}/{noise}", [p.index], policy.latent_shape) for split, p in jobs]
        )
        cond = policy.encode([p.text for _, p in jobs])
        x = torch.from_numpy(z1).to(policy.device)
        return policy.decode(policy.sample(x, cond, steps=steps, guidance=guidance))

    def _diversity(self, policy: SD3Policy) -> float:
        """Mean pairwise cosine distance of image embeddings among samples of one prompt, over prompts."""
        settings = self._settings
        jobs = [(settings.split, p) for p in self._prompts[: settings.diversity_prompts]]

        def embedded(k: int, part: Sequence[Job]) -> np.ndarray:
            return self._world.embed(self._sample(policy, part, settings.guidance, settings.steps, f"diversity/{k}"))

        samples = [np.concatenate(self._share(jobs, partial(embedded, k))) for k in range(settings.diversity_samples)]
        return mean_pairwise_distance(np.stack(samples, axis=1))

    @torch.no_grad()
    def _fixed_states(self, base: SD3Policy, categories: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        """Forward-noised candidates (N, *S), their sigma (N,) spread evenly over (0, 1), and their captions."""
        candidates = self._world.candidates(categories, self._settings.drift_states)
        index = range(len(candidates.prompts))
        z0, _ = base.encode_pictures(candidates.images[:])
        z1 = torch.from_numpy(rng.normal(NOISE_SEED, "drift", index, base.latent_shape)).to(base.device)
        sigma = (torch.arange(len(z0), device=base.device) + 0.5) / len(z0)
        return flow.interpolate(z0, z1, sigma), sigma, [p.text for p in candidates.prompts]

    @torch.no_grad()
    def _drift(self, policy: SD3Policy) -> dict[str, float]:
        """How far the model has moved from the base.

        velocity: |v - v_base|^2 / |v_base|^2 over the fixed states. norm_ratio: |v| / |v_base|, the inflation that
        NormGuard reports (arXiv 2606.27771). path_kl: KL divergence in nats of the model's SDE paths from the base's.
        """
        v, v_base = (self._at_states(model, policy).double() for model in (policy, self._base))
        distance = (v - v_base).square().sum(1) / v_base.square().sum(1)
        ratio = v.norm(dim=1) / v_base.norm(dim=1)
        paths = [self._path_kl(policy, part) for part in self._parts(max(1, len(self._state_texts) // 8))]
        return {
            "velocity": float(distance.mean()),
            "norm_ratio": float(ratio.mean()),
            "path_kl": float(torch.cat(paths).mean()),
        }

    def _parts(self, count: int) -> list[range]:
        """The numbers below `count`, as many at a time as one pass may have samples."""
        size = self._settings.batch_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def _at_states(self, model: VelocityField, policy: SD3Policy) -> Tensor:
        """Velocities (N, D) float32 at the fixed states."""
        found = []
        for part in self._parts(len(self._state_texts)):
            rows, cond = slice(part.start, part.stop), policy.encode([self._state_texts[i] for i in part])
            found.append(model.velocity(self._states[rows], self._state_sigma[rows], cond).flatten(1))
        return torch.cat(found)

    def _path_kl(self, policy: SD3Policy, index: range) -> Tensor:
        """Sum over the steps of SDE paths of the KL between the model's and the base's next-step Gaussians (n,)."""
        cond = policy.encode([self._state_texts[i] for i in index])
        sigmas = policy.sigmas(PATH_STEPS)
        x = torch.from_numpy(rng.normal(NOISE_SEED, "path", index, policy.latent_shape)).to(policy.device)
        total = torch.zeros(len(x), dtype=torch.float64)
        for step in range(PATH_STEPS - 1):  # the last step has no noise and so no density
            sigma, sigma_next = sigmas[step].expand(len(x)), sigmas[step + 1].expand(len(x))
            v, v_base = policy.velocity(x, sigma, cond), self._base.velocity(x, sigma, cond)
            mean, std = flow.sde_mean_std(x, v, sigma, sigma_next, PATH_NOISE, sigmas[1])
            mean_base, _ = flow.sde_mean_std(x, v_base, sigma, sigma_next, PATH_NOISE, sigmas[1])
            total += flow.gaussian_kl(mean, mean_base, std).double().cpu() * mean[0].numel()
            noise = rng.normal(NOISE_SEED, f"path/{step}", index, policy.latent_shape)
            x = mean + std * torch.from_numpy(noise).to(policy.device)
        return total


def mean_pairwise_distance(embeddings: np.ndarray) -> float:
    """Mean cosine distance, in [0, 2], of the pairs of one prompt, over prompts; embeddings (prompts, samples, D)."""
    similarity = np.einsum("psd,ptd->pst", embeddings, embeddings, dtype=np.float64)
    samples = embeddings.shape[1]
    off_diagonal = similarity.sum((1, 2)) - np.trace(similarity, axis1=1, axis2=2)
    return float((1 - off_diagonal / (samples * (samples - 1))).mean())


def _joined(frames: Sequence[Frame]) -> Frame:
    """The rows of several frames with the same columns."""
    return {name: np.concatenate([frame[name] for frame in frames]) for name in frames[0]}


def _summary(frame: Frame, name: str, rows: np.ndarray) -> dict[str, Any]:
    values = frame[name][rows].astype(np.float64)
    categories = frame["category"][rows]
    valid = np.isfinite(values)
    by_category = {
        category: float(values[valid & (categories == category)].mean())
        for category in sorted(set(categories))
        if (valid & (categories == category)).any()
    }
    return {"mean": float(values[valid].mean()), "n": int(valid.sum()), "by_category": by_category}
