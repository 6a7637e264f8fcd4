"""Curated data for supervised methods: the top share of fresh candidates, by category, as a scorer ranks them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.model.policy import SD3Policy
from bench.paths import cache_folder
from bench.records.schema import config_hash
from bench.scorers.scorer import Scorer
from bench.tasks.dataset import Dataset
from bench.tasks.definitions import Task
from bench.tasks.world import Candidates, World
from bench.training.checkpoint import Checkpoints

_CHUNK = 256


def curate(
    world: World, task: Task, policy: SD3Policy, select: Scorer | None, note: Callable[[str], object] = print
) -> Dataset:
    """The supervised data of a task, encoded to latent moments; from the cache where it was made before.

    Candidates come from the world (the generator of the pre-training data, flaws included, or the user's pictures);
    within each category the `top_share` with the highest score is kept. The folder in the cache is named by a hash of
    all that the data depends on. What is damaged there is told to `note` and made again.
    """
    cache = Checkpoints(cache_folder() / "curated" / _key(world, task, policy, select))
    saved, complaints = cache.load()
    for complaint in complaints:
        note(f"curated data: {complaint}; it is made again")
    if saved is not None:
        return Dataset(saved.tensors["mean"], saved.tensors["std"], **saved.state)
    candidates = world.candidates(task.categories or world.categories, task.candidates)
    scores = _scores(candidates, select)
    kept = top_share(scores, [p.category for p in candidates.prompts], task.top_share)
    parts = [policy.encode_pictures(candidates.images[kept[i : i + _CHUNK]]) for i in range(0, len(kept), _CHUNK)]
    tensors = {
        "mean": torch.cat([mean.cpu() for mean, _ in parts]),
        "std": torch.cat([std.cpu() for _, std in parts]),
    }
    state: dict[str, Any] = {
        "prompts": [candidates.prompts[i].text for i in kept],
        "metadata": [candidates.prompts[i].metadata for i in kept],
        "selected_by": select.name if select else candidates.selected_by or "nothing",
        "scored": candidates.scored + (len(candidates.prompts) if select else 0),
    }
    cache.save(0, tensors, state)
    return Dataset(tensors["mean"], tensors["std"], **state)


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
        "vae": _fingerprint(policy.pipeline.vae),
        "latent": list(policy.latent_shape),
        "categories": list(task.categories or world.categories),
        "candidates": task.candidates,
        "top_share": task.top_share,
        "select": [select.name, select.reward.version, select.fingerprint] if select else None,
    }
    return config_hash(parts)


def _fingerprint(module: torch.nn.Module) -> str:
    """16 hex digits of a module's weights as they are held, wherever they came from."""
    whole = hashlib.blake2b(digest_size=8)
    for name, tensor in module.state_dict().items():
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return whole.hexdigest()
