"""Curated data for supervised methods: the top share of fresh candidates, by category, as a scorer ranks them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.checkpoint import Checkpoints, Saved
from bench.data.bucketed import Bucketed
from bench.dataset import Dataset
from bench.paths import cache_folder
from bench.policy import SD3Policy
from bench.schema import config_hash
from bench.scorer import Scorer
from bench.tasks.definitions import Task
from bench.tasks.world import Bucket, Candidates, World

_CHUNK = 256


def curate(
    world: World, task: Task, policy: SD3Policy, select: Scorer | None, note: Callable[[str], object] = print
) -> Dataset | Bucketed:
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
        return _restored(saved)
    candidates = world.candidates(task.categories or world.categories, task.candidates)
    scores = _scores(candidates, select)
    kept = top_share(scores, [p.category for p in candidates.prompts], task.top_share)
    about = {
        "selected_by": select.name if select else candidates.selected_by or "nothing",
        "scored": candidates.scored + (len(candidates.prompts) if select else 0),
    }
    whole = Bucket(None, np.arange(len(candidates.prompts)), candidates.images)
    parts = [_encoded(policy, candidates, bucket, kept, about) for bucket in candidates.buckets or (whole,)]
    there = [part for part in parts if part is not None]
    found = _bucketed(there) if candidates.buckets else there[0]
    cache.save(0, *_stored(found))
    return found


def _encoded(
    policy: SD3Policy, candidates: Candidates, bucket: Bucket, kept: np.ndarray, about: Mapping[str, Any]
) -> Dataset | None:
    """The kept ones among the pictures of a bucket as latent moments; None where there are none."""
    own = np.flatnonzero(np.isin(bucket.rows, kept))
    if not len(own):
        return None
    chunks = [own[start : start + _CHUNK] for start in range(0, len(own), _CHUNK)]
    moments = [policy.encode_pictures(bucket.images[chunk], bucket.size) for chunk in chunks]
    prompts = [candidates.prompts[row] for row in bucket.rows[own]]
    return Dataset(
        torch.cat([mean.cpu() for mean, _ in moments]), torch.cat([std.cpu() for _, std in moments]),
        [p.text for p in prompts], [p.metadata for p in prompts], **about,
    )  # fmt: skip


def _stored(dataset: Dataset | Bucketed) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As a checkpoint keeps it: tensors by number of the bucket, and all else."""
    parts = dataset.parts if isinstance(dataset, Bucketed) else (dataset,)
    tensors = {f"mean.{number}": part.mean for number, part in enumerate(parts)}
    tensors |= {f"std.{number}": part.std for number, part in enumerate(parts)}
    names = ("prompts", "metadata", "selected_by", "scored")
    state = [{name: getattr(part, name) for name in names} for part in parts]
    return tensors, {"parts": state, "in_buckets": isinstance(dataset, Bucketed)}


def _restored(saved: Saved) -> Dataset | Bucketed:
    """The inverse of `_stored`."""
    t = saved.tensors
    parts = [Dataset(t[f"mean.{n}"], t[f"std.{n}"], **about) for n, about in enumerate(saved.state["parts"])]
    return _bucketed(parts) if saved.state["in_buckets"] else parts[0]


def _bucketed(parts: Sequence[Dataset]) -> Bucketed:
    return Bucketed(tuple(parts), tuple(tuple(part.mean.shape[1:]) for part in parts))


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
        "form": 2,  # of what `_stored` makes
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
