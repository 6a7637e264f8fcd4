"""Curated data for supervised methods: the top share of fresh candidates, by category, as a scorer ranks them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.encoded.moments import digests_of, moments_of, stacked
from bench.model.policy import SD3Policy
from bench.paths import cache_folder
from bench.records.schema import config_hash
from bench.scorers.scorer import Scorer
from bench.tasks.dataset import Dataset
from bench.tasks.definitions import Task
from bench.tasks.world import Candidates, World
from bench.training.checkpoint import Checkpoints

_CHUNK = 256
_VERSION = 2  # of what is kept of a choice


def curate(
    world: World, task: Task, policy: SD3Policy, select: Scorer | None, note: Callable[[str], object] = print
) -> Dataset:
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
    rows = np.array(state["rows"])
    pictures = moments_of(policy, state["digests"], lambda numbers: found().images[rows[numbers]])
    pictures.prepare(range(len(rows)))
    about = {name: value for name, value in state.items() if name not in ("rows", "digests")}
    return Dataset(lambda index: stacked(pictures, [int(i) for i in index]), **about)


def _chosen(candidates: Candidates, task: Task, select: Scorer | None) -> dict[str, Any]:
    """Rows of the candidates that are kept, what names their pictures, and what a data set says of itself."""
    kept = top_share(_scores(candidates, select), [p.category for p in candidates.prompts], task.top_share)
    return {
        "rows": kept.tolist(),
        "digests": digests_of(candidates, kept.tolist()),
        "prompts": [candidates.prompts[i].text for i in kept],
        "metadata": [candidates.prompts[i].metadata for i in kept],
        "selected_by": select.name if select else candidates.selected_by or "nothing",
        "scored": candidates.scored + (len(candidates.prompts) if select else 0),
    }


def top_share(scores: np.ndarray, categories: Sequence[str], share: float) -> np.ndarray:
    """Row numbers, rising, of the highest `share` (0, 1] of `scores` (N,) within each category, rounded up.

    Ties go to the earlier row.
    """
    names = np.array(categories)
    kept = []
    for name in sorted(set(categories)):
        rows = np.flatnonzero(names == name)
        order = np.argsort(-scores[rows], kind="stable")
        kept.append(rows[order[: int(np.ceil(share * len(rows)))]])
    return np.sort(np.concatenate(kept))


def _scores(candidates: Candidates, select: Scorer | None) -> np.ndarray:
    if select is None:
        return np.zeros(len(candidates.prompts), np.float32)
    parts = []
    for start in range(0, len(candidates.prompts), _CHUNK):
        prompts = candidates.prompts[start : start + _CHUNK]
        images = candidates.images[start : start + _CHUNK]
        parts.append(select.training_scores(images, [p.text for p in prompts], [p.metadata for p in prompts]))
    return np.concatenate(parts)


def _key(world: World, task: Task, policy: SD3Policy, select: Scorer | None) -> str:
    parts: dict[str, Any] = {
        "world": [world.name, world.version],
        "version": _VERSION,
        "latent": list(policy.latent_shape),
        "categories": list(task.categories or world.categories),
        "candidates": task.candidates,
        "top_share": task.top_share,
        "select": [select.name, select.reward.version, select.fingerprint] if select else None,
    }
    return config_hash(parts)
