"""Curated data for supervised methods: the top share of fresh candidates, by category, as a scorer ranks them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import Needs
from bench.canonical import config_hash
from bench.config.task import Task
from bench.datasets.buckets import Size
from bench.datasets.dataset import BucketedDataset, Dataset
from bench.datasets.world import Candidates, World
from bench.models.encoding_cache.latents import digests_of, moments_of, stacked
from bench.paths import cache_folder
from bench.scoring.ranking import top_share
from bench.scoring.scorer import Scorer
from bench.training.checkpoint import Checkpoints
from bench.training.context import TaskContext

if TYPE_CHECKING:
    from bench.models.policy import PipelinePolicy

_CHUNK = 256
_VERSION = 3  # of what is kept of a choice


def training_data(context: TaskContext, needs: Needs) -> Dataset | BucketedDataset:
    """The supervised data of a task for a method with these needs."""
    task = context.task.unselected if needs.unselected else context.task
    select = context.scorers[task.select] if task.select else None
    return context.ranks.first_rank_first(
        lambda: curated_data(context.world, task, context.policy, select, context.note)
    )


def curated_data(
    world: World, task: Task, policy: PipelinePolicy, select: Scorer | None, note: Callable[[str], object] = print
) -> Dataset | BucketedDataset:
    """The supervised data of a task: which pictures, kept where it was found out before, and their latent moments.

    Candidates come from the world (the generator of the pre-training data, flaws included, or the user's pictures);
    within each category the `top_share` with the highest score is kept. The folder in the cache is named by a hash of
    all that the choice depends on. What is damaged there is told to `note` and made again. Moments are encoded once,
    and read from the cache of encodings when they are drawn.
    """
    choice = Checkpoints(cache_folder() / "curated" / _key(world, task, policy, select))
    saved, complaints = choice.load()
    for complaint in complaints:
        note(f"curated data: {complaint}; it is made again")
    found = functools.cache(lambda: world.candidates(task.categories or world.categories, task.candidates))
    state = saved.state if saved is not None else _chosen(found(), task, select)
    if saved is None:
        choice.save(0, {}, state)
    parts = [_dataset(policy, found, state, number) for number in range(len(state["parts"]))]
    found.cache_clear()  # the pixels are not needed again, but where an encoding is lost
    if state["parts"][0]["size"] is None:
        return parts[0]
    return BucketedDataset(tuple(parts), tuple(policy.latent_of(tuple(part["size"])) for part in state["parts"]))


def _dataset(
    policy: PipelinePolicy, candidates: Callable[[], Candidates], state: Mapping[str, Any], number: int
) -> Dataset:
    """The pictures of one size, whose moments are encoded now, and read when they are drawn."""
    part = state["parts"][number]
    rows, size = np.array(part["rows"]), part["size"] and tuple(part["size"])

    def pixels(numbers: np.ndarray) -> np.ndarray:
        buckets = {bucket.size: bucket.images for bucket in candidates().buckets}
        # one choice serves pictures without buckets and those whose only bucket is the square
        return buckets.get(size, candidates().images)[rows[numbers]]

    pictures = moments_of(policy, part["digests"], pixels, size, share=1 / len(state["parts"]))
    pictures.prepare(range(len(rows)))
    return Dataset(
        lambda index: stacked(pictures, [int(i) for i in index]), part["prompts"], part["metadata"],
        state["selected_by"], state["scored"],
    )  # fmt: skip


def _chosen(candidates: Candidates, task: Task, select: Scorer | None) -> dict[str, Any]:
    """Which candidates are kept, by the size that they are trained on, and what a data set says of itself."""
    kept = top_share(_scores(candidates, select), [p.category for p in candidates.prompts], task.top_share)
    if candidates.buckets:
        parts = []
        for bucket in candidates.buckets:
            own = np.flatnonzero(np.isin(bucket.rows, kept)).tolist()
            digests = [bucket.digests[row] for row in own]
            if own:
                parts.append(_part(candidates, bucket.size, own, bucket.rows[own], digests))
    else:
        parts = [_part(candidates, None, kept.tolist(), kept, digests_of(candidates, kept.tolist()))]
    return {
        "parts": parts,
        "selected_by": select.name if select else candidates.selected_by or "nothing",
        "scored": candidates.scored + (len(candidates.prompts) if select else 0),
    }


def _part(
    candidates: Candidates, size: Size | None, rows: list[int], numbers: np.ndarray, digests: Sequence[str]
) -> dict[str, Any]:
    """The pictures of one size: `rows` among its pictures, `numbers` among all candidates."""
    prompts = [candidates.prompts[number] for number in numbers]
    return {
        "size": size, "rows": rows, "digests": list(digests), "prompts": [p.text for p in prompts],
        "metadata": [p.metadata for p in prompts],
    }  # fmt: skip


def _scores(candidates: Candidates, select: Scorer | None) -> np.ndarray:
    if select is None:
        return np.zeros(len(candidates.prompts), np.float32)
    parts = []
    for start in range(0, len(candidates.prompts), _CHUNK):
        prompts = candidates.prompts[start : start + _CHUNK]
        images = candidates.images[start : start + _CHUNK]
        parts.append(select.training_scores(images, [p.text for p in prompts], [p.metadata for p in prompts]))
    return np.concatenate(parts)


def _key(world: World, task: Task, policy: PipelinePolicy, select: Scorer | None) -> str:
    parts: dict[str, Any] = {
        "world": [world.name, world.version],
        "version": _VERSION,
        "latent": list(policy.latent_shape),
        "categories": list(task.categories or world.categories),
        "candidates": task.candidates,
        "top_share": task.top_share,
        "select": [select.name, select.reward.version, select.fingerprint, select.code] if select else None,
    }
    return config_hash(parts)
