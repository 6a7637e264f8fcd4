"""Evaluation: common-noise sampling, every scorer per sample, diversity, drift from the base. Never charged.

The initial noise of a sample is keyed by its prompt alone, so all methods, seeds and milestones see the same.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench import flow, rng
from bench.api import Prompt
from bench.config.settings import Evaluation
from bench.datasets.prompts.clusters import claim_clusters
from bench.datasets.prompts.sets import LoadedSet, among, load_sets
from bench.features import shared_features
from bench.models.encoding_cache.latents import digests_of, moments_of, stacked
from bench.models.policy import Frozen, PipelinePolicy
from bench.models.velocity import VelocityField
from bench.paths import portable
from bench.scoring.scorer import Scorer
from bench.training.context import TaskContext

NOISE_SEED = 0  # of evaluation; one for all
PATH_STEPS = 10
PATH_NOISE = 0.7  # Flow-GRPO's noise level, arXiv 2505.05470

Job = tuple[str, Prompt]  # split and prompt
Frame = dict[str, Any]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Judgement:
    """One evaluation: per-sample columns, and what summarises them."""

    frame: Frame
    scores: dict[str, dict[str, Any]]
    diversity: float | None
    drift: dict[str, float]


@dataclass(frozen=True)
class SetJudgement:
    """One prompt set: per-prompt columns, and what summarises them."""

    of: LoadedSet
    frame: Frame
    scores: dict[str, dict[str, Any]]


class Evaluator:
    """Judges any policy of one task: fixed prompts, fixed noise, fixed states. Several ranks share out the samples."""

    def __init__(
        self, context: TaskContext, settings: Evaluation, tick: Callable[[float], None] = lambda fraction: None
    ) -> None:
        """The policy of the context is taken for the base; `tick` hears which share of an evaluation is done."""
        world, task, base, scorers, ranks = (
            context.world, context.task, context.policy, context.scorers, context.ranks,
        )  # fmt: skip
        sets = load_sets(settings.prompt_sets)
        self._world = world
        self._task = task
        self._settings = settings
        self._scorers = {portable(name): scorers[name] for name in task.scorers}
        self._sets = [(one, {portable(name): scorers[name] for name in one.settings.scorers}) for one in sets]
        self._tick = tick
        self._ranks = ranks
        self._categories = categories = task.categories or world.categories
        self._prompts = world.prompts(settings.split, categories, settings.final_prompts)
        self._held_out = (
            world.prompts("held_out", categories, settings.held_out_prompts) if settings.held_out_prompts else []
        )
        self._final: tuple[int, Frame] | None = None  # an update, and its final evaluation
        of_sets = [p.text for one in sets for p in one.prompts]
        if of_sets:  # one that is too long has to be told before hours of training
            base.texts.refuse_truncation(of_sets)
        self._clusters = {
            (split, prompt.index): cluster
            for split, prompts in (
                (settings.split, self._prompts),
                ("held_out", self._held_out),
                *((one.split, one.prompts) for one in sets),
            )
            for prompt, cluster in zip(prompts, claim_clusters(prompts), strict=True)
        }
        texts = ["", *of_sets, *(p.text for p in (*self._prompts, *self._held_out))]
        if settings.drift_states:
            self._states, self._state_sigma, self._state_texts = self._fixed_states(base, categories)
            texts += self._state_texts
        ranks.first_rank_first(lambda: base.texts.prepare(texts))
        if settings.drift_states:
            self._base: Frozen = base.frozen_copy()

    def judge(self, policy: PipelinePolicy, update: int, *, final: bool) -> Judgement:
        """Sample and score the prompts of a milestone, or all of them and the held-out ones at the end."""
        settings = self._settings
        jobs = self._final_jobs() if final else self._reported(settings.milestone_prompts)
        frame = self._score(policy, jobs, settings.guidance, settings.steps, update, self._scorers)
        if final:
            self._final = update, frame
        reported = np.array(frame["split"]) == settings.split
        return Judgement(
            frame=frame,
            scores=_summaries(frame, reported, self._scorers, jobs),
            diversity=self._diversity(policy) if final and settings.diversity_prompts else None,
            drift=self._drift(policy) if settings.drift_states else {},
        )

    def grid(self, policy: PipelinePolicy, update: int) -> Frame | None:
        """The guidance x steps grid on the first prompts; None where the settings ask for none.

        Where guidance and steps are those of the final evaluation after that update, so are the rows.
        """
        settings = self._settings
        jobs = self._reported(settings.grid_prompts)
        known = {}
        if self._final is not None and self._final[0] == update:
            first = {name: values[: len(jobs)] for name, values in self._final[1].items()}
            known[settings.guidance, settings.steps] = first
        frames = [
            known.get((guidance, steps)) or self._score(policy, jobs, guidance, steps, update, self._scorers)
            for guidance in settings.grid_guidance
            for steps in settings.grid_steps
        ]
        if not frames:
            return None
        return _joined(frames)

    def recall(self, update: int, frame: Frame) -> None:
        """Take up a final evaluation that was made and stored before this evaluator was."""
        self._final = update, frame

    def _reported(self, count: int | None = None) -> list[Job]:
        return [(self._settings.split, p) for p in self._prompts[:count]]

    def _final_jobs(self) -> list[Job]:
        return self._reported() + [("held_out", p) for p in self._held_out]

    def prompt_sets(self, policy: PipelinePolicy, update: int, without: Collection[str] = ()) -> Iterator[SetJudgement]:
        """The prompt sets in turn, but those `without`; a prompt's score is the mean of its samples' scores.

        Each sample has noise of its own.
        """
        settings = self._settings
        for one, scorers in self._sets:
            if one.name in without:
                continue
            jobs = [(one.split, p) for p in one.prompts]
            frames = [
                self._score(policy, jobs, settings.guidance, settings.steps, update, scorers, f"z1/{sample}")
                for sample in range(one.settings.samples)
            ]
            means = {name: _mean_of_samples([frame[name] for frame in frames]) for name in scorers}
            frame = frames[0] | {name: mean.astype(np.float32) for name, mean in means.items()}
            yield SetJudgement(one, frame, _summaries(frame, np.ones(len(jobs), bool), scorers, jobs))

    def in_training(self, prompts: Sequence[Prompt]) -> int:
        """How many of the prompts the task could train on too, as a caption or as a prompt."""
        return among(prompts, self._trainable)

    @cached_property
    def _trainable(self) -> frozenset[str]:
        """The texts of all training prompts and candidates."""
        own = self._world.prompts("train", self._categories, self._task.train_prompts)
        found = self._world.candidates(self._categories, self._task.candidates)
        more = (text for texts in found.more for text in texts)
        return frozenset([*(p.text for p in (*own, *found.prompts)), *more])

    def pictures(self, policy: PipelinePolicy) -> tuple[bytes, list[Prompt], tuple[int, int]]:
        """A PNG with one row of tiles, its prompts, and a tile's (width, height)."""
        settings = self._settings
        prompts = self._prompts[: settings.pictures]
        jobs = self._reported(settings.pictures)
        sampled = self._share(
            jobs, lambda part: _done(self._sample(policy, part, settings.guidance, settings.steps, "z1"))
        )
        images = np.concatenate(sampled)
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(list(images), axis=1)).save(buffer, format="PNG")
        return buffer.getvalue(), prompts, (images.shape[2], images.shape[1])

    def _share(self, jobs: Sequence[Job], begin: Callable[[Sequence[Job]], Callable[[], _Result]]) -> list[_Result]:
        """What `begin` of every batch of jobs leads to, in order; one batch ends when the next one has begun."""
        size = self._settings.batch_size
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        ticked = 0

        def ticking(batch: Sequence[Job]) -> Callable[[], _Result]:
            nonlocal ticked
            ticked += self._ranks.size
            end = begin(batch)
            self._tick(min(1.0, ticked / len(batches)))
            return end

        return self._ranks.map_items(batches, ticking)

    def _score(
        self, policy: PipelinePolicy, jobs: Sequence[Job], guidance: float, steps: int, update: int,
        scorers: Mapping[str, Scorer], noise: str = "z1",
    ) -> Frame:  # fmt: skip
        """Sample and score; the columns of all jobs."""

        def begin(part: Sequence[Job]) -> Callable[[], Frame]:
            images = self._sample(policy, part, guidance, steps, noise)
            return self._scored(images, part, guidance, steps, update, scorers)

        return _joined(self._share(jobs, begin))

    def _scored(
        self, images: np.ndarray, jobs: Sequence[Job], guidance: float, steps: int, update: int,
        scorers: Mapping[str, Scorer],
    ) -> Callable[[], Frame]:  # fmt: skip
        """Begin to score; leads to the columns."""
        prompts = [p for _, p in jobs]
        texts, metadata = [p.text for p in prompts], [p.metadata for p in prompts]
        frame: Frame = {
            "prompt_index": np.array([p.index for p in prompts], np.int32),
            "cluster": np.array([self._clusters[split, p.index] for split, p in jobs], np.int32),
            "category": np.array([p.category for p in prompts], object),
            "split": np.array([split for split, _ in jobs], object),
            "guidance": np.full(len(jobs), guidance, np.float32),
            "steps": np.full(len(jobs), steps, np.int32),
            "update": np.full(len(jobs), update, np.int32),
        }
        with shared_features():
            waiting = {
                name: scorer.submit_where_it_applies(images, texts, metadata) for name, scorer in scorers.items()
            }
        return lambda: frame | {name: scores() for name, scores in waiting.items()}

    def _sample(
        self, policy: PipelinePolicy, jobs: Sequence[Job], guidance: float, steps: int, noise: str
    ) -> np.ndarray:
        """Pictures of one batch."""
        z1 = np.concatenate(
            [
                rng.normal(NOISE_SEED, f"evaluate/{split}/{noise}", [p.index for _, p in part], policy.latent_shape)
                for split, part in itertools.groupby(jobs, key=lambda job: job[0])
            ]
        )
        cond = policy.encode([p.text for _, p in jobs])
        x = torch.from_numpy(z1).to(policy.device)
        with policy.in_precision(self._settings.precision):
            z0 = policy.sample(x, cond, steps=steps, guidance=guidance)
        return policy.decode(z0)

    def _diversity(self, policy: PipelinePolicy) -> float:
        """Mean pairwise cosine distance of image embeddings among samples of one prompt, over prompts."""
        settings = self._settings
        jobs = self._reported(settings.diversity_prompts)

        def embedded(k: int, part: Sequence[Job]) -> Callable[[], np.ndarray]:
            images = self._sample(policy, part, settings.guidance, settings.steps, f"diversity/{k}")
            return _done(self._world.embed(images))

        samples = [np.concatenate(self._share(jobs, partial(embedded, k))) for k in range(settings.diversity_samples)]
        return mean_pairwise_distance(np.stack(samples, axis=1))

    @torch.no_grad()
    def _fixed_states(self, base: PipelinePolicy, categories: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        """Forward-noised candidates (N, *S), their sigma (N,) spread evenly over (0, 1), and their captions."""
        candidates = self._world.candidates(categories, self._settings.drift_states)
        index = range(len(candidates.prompts))
        pictures = moments_of(base, digests_of(candidates, index), lambda numbers: candidates.images[numbers])
        self._ranks.first_rank_first(lambda: pictures.prepare(index))
        z0 = stacked(pictures, index)[0].to(base.device)
        z1 = torch.from_numpy(rng.normal(NOISE_SEED, "drift", index, base.latent_shape)).to(base.device)
        sigma = (torch.arange(len(z0), device=base.device) + 0.5) / len(z0)
        return flow.interpolate(z0, z1, sigma), sigma, [p.text for p in candidates.prompts]

    @torch.no_grad()
    def _drift(self, policy: PipelinePolicy) -> dict[str, float]:
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

    def _at_states(self, model: VelocityField, policy: PipelinePolicy) -> Tensor:
        """Velocities (N, D) float32 at the fixed states."""
        found = []
        for part in self._parts(len(self._state_texts)):
            rows, cond = slice(part.start, part.stop), policy.encode([self._state_texts[i] for i in part])
            found.append(model.velocity(self._states[rows], self._state_sigma[rows], cond).flatten(1))
        return torch.cat(found)

    def _path_kl(self, policy: PipelinePolicy, index: range) -> Tensor:
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


def _done(result: _Result) -> Callable[[], _Result]:
    """What has nothing to wait for."""
    return lambda: result


def _joined(frames: Sequence[Frame]) -> Frame:
    """The rows of several frames with the same columns."""
    return {name: np.concatenate([frame[name] for frame in frames]) for name in frames[0]}


def _mean_of_samples(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Means (N,) float64 over the samples of each prompt that were judged; NaN where none was."""
    values = np.stack(scores)
    judged = ~np.isnan(values)
    counts = judged.sum(0)
    if (counts == len(scores)).all():
        return np.asarray(np.mean(scores, axis=0, dtype=np.float64))
    return np.where(counts, np.where(judged, values, 0).sum(0, dtype=np.float64) / np.maximum(counts, 1), np.nan)


def _summaries(
    frame: Frame, rows: np.ndarray, scorers: Mapping[str, Scorer], jobs: Sequence[Job]
) -> dict[str, dict[str, Any]]:
    """What summarises the scores of those `rows`, by scorer; of one that judged none of them there is nothing."""
    found = {}
    for name, scorer in scorers.items():
        judged = np.isfinite(frame[name])
        if (rows & judged).any():
            unjudged = (jobs[row][1] for row in np.flatnonzero(rows & ~judged).tolist())
            abstained = sum(scorer.reward.applies(prompt.metadata) for prompt in unjudged)
            found[name] = _summary(frame, name, rows) | {"abstained": abstained}
    return found


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
