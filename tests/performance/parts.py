"""Parts of a run beside training, and what none of them can leave out."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import torch
from safetensors.torch import save

from bench.config.load import load_settings
from bench.datasets.scenes.proxies import ASSETS, CLIP_FOLDER, ProxyClip
from bench.datasets.worlds import experiment_world, load_world
from bench.features import shared_features
from bench.models.policy import PipelinePolicy
from bench.results.report import check_report
from bench.scoring.loading import load_scorers
from bench.training.checkpoint import Checkpoints
from bench.training.context import TaskContext
from bench.training.curation import curated_data
from bench.training.evaluate import Evaluator
from methods.sft import SFT
from rewards.scenes_geneval import ScenesGenEval
from tests.performance.cases import Case
from tests.performance.models import fixtures_of

PROMPTS = 64
CANDIDATES = 256
ROOT = Path(__file__).resolve().parents[2]

Pair = tuple[Callable[[], object], Callable[[], object]]


def sampling() -> Pair:
    """Pictures of one batch of the preset `quick`; and the denoiser's passes with both branches, and the decoder."""
    settings, policy = load_settings("quick").evaluation, PipelinePolicy.load(load_world("scenes").model)
    noise = torch.randn(settings.batch_size, *policy.latent_shape)
    cond = policy.encode([f"a photo of {n} stars" for n in ("two", "three")] * (settings.batch_size // 2))
    both, sigma = cond.cat([policy.null(cond), cond]), torch.full((2 * settings.batch_size,), 0.5)

    def sampled() -> None:
        policy.decode(policy.sample(noise, cond, steps=settings.steps, guidance=settings.guidance))

    @torch.no_grad()
    def passes() -> None:
        for _ in range(settings.steps):
            policy.velocity(torch.cat([noise, noise]), sigma, both)
        policy.decode(noise)

    return sampled, passes


def scoring() -> Pair:
    """All scorers of a task on pictures, as an evaluation has them; and the networks that see pictures and texts."""
    experiment = load_settings("quick")
    task, world = experiment.tasks[0], experiment_world(experiment)
    scorers, clip, read = load_scorers(set(task.scorers)), ProxyClip(ASSETS / CLIP_FOLDER), ScenesGenEval()
    read.load()
    found = world.candidates(task.categories or world.categories, PROMPTS)
    images, texts = np.asarray(found.images[:]), [p.text for p in found.prompts]
    metadata = [p.metadata for p in found.prompts]

    def scored() -> None:
        with shared_features():
            for scorer in scorers.values():
                scorer.where_it_applies(images, texts, metadata)

    def networks() -> None:
        clip.image(images)
        clip.text(texts)
        read(images, texts, metadata)

    return scored, networks


def report() -> Pair:
    """The whole report of all committed results, compared with the one that is there; and reading their files."""

    def compared() -> None:
        check_report(ROOT / "results", ROOT / "REPORT.md")

    def read() -> None:
        for path in (ROOT / "results").rglob("record.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                json.loads(line)
        for path in (ROOT / "results").rglob("*.parquet"):
            pandas.read_parquet(path)

    return compared, read


def evaluation() -> Pair:
    """An evaluation of the preset `quick`; and its networks alone: denoiser, decoder, each scorer's network once."""
    experiment = load_settings("quick")
    settings = replace(
        experiment.evaluation, milestone_prompts=PROMPTS, final_prompts=PROMPTS, held_out_prompts=0, drift_states=0,
        diversity_prompts=0, grid_prompts=16, pictures=4,
    )  # fmt: skip
    task, world = experiment.tasks[0], experiment_world(experiment)
    policy = PipelinePolicy.load(world.model)
    evaluator = Evaluator(TaskContext(world, task, policy, load_scorers(set(task.scorers))), settings)
    clip = ProxyClip(ASSETS / CLIP_FOLDER)
    noise = torch.randn(PROMPTS, *policy.latent_shape)
    texts = [p.text for p in world.prompts(settings.split, task.categories or world.categories, PROMPTS)]
    cond = policy.encode(texts)
    parts = [slice(i, i + settings.batch_size) for i in range(0, PROMPTS, settings.batch_size)]

    def sampled() -> list[torch.Tensor]:
        return [policy.sample(noise[p], cond[p], steps=settings.steps, guidance=settings.guidance) for p in parts]

    def networks() -> None:
        for part, z0 in zip(parts, sampled(), strict=True):
            clip.image(np.ascontiguousarray(policy.decode(z0)))
            clip.text(texts[part])

    return lambda: evaluator.judge(policy, 0, final=False), networks


def curation(folder: Path) -> Pair:
    """Choosing and encoding pictures; and drawing them, the network that chooses, and the VAE alone."""
    experiment = load_settings("quick", {"task.candidates": CANDIDATES})
    task, world = experiment.tasks[0], experiment_world(experiment)
    policy, scorers, clip = (
        PipelinePolicy.load(world.model),
        load_scorers(set(task.scorers)),
        ProxyClip(ASSETS / CLIP_FOLDER),
    )
    assert task.select is not None
    select, count, categories = scorers[task.select], itertools.count(), task.categories or world.categories
    before = os.environ.get("BENCH_CACHE")

    def chosen() -> None:
        os.environ["BENCH_CACHE"] = str(folder / f"cache-{next(count)}")
        try:
            curated_data(world, task, policy, select, print)
        finally:
            os.environ["BENCH_CACHE"] = before or ""
            if before is None:
                del os.environ["BENCH_CACHE"]

    def networks() -> None:
        found = world.candidates(categories, task.candidates)
        clip.image(found.images)
        clip.text([p.text for p in found.prompts])
        policy.encode_pictures(found.images[: round(task.top_share * task.candidates)])

    return chosen, networks


def checkpoint(folder: Path) -> Pair:
    """Keeping a stage's whole state; and writing its tensors into a file that is flushed."""
    stage = Case("sft", SFT).stage(fixtures_of(folder), 8, 8)
    stage.advance()
    checkpoints = Checkpoints(folder / "checkpoint")

    def kept() -> None:
        checkpoints.save(1, stage.tensors(), stage.state_dict())

    def written() -> None:
        with (folder / "plain.safetensors").open("wb") as file:
            file.write(save(stage.tensors()))
            file.flush()
            os.fsync(file.fileno())

    return kept, written
