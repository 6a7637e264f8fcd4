"""Curated data for supervised methods: the top share of fresh candidates, by category, as a scorer ranks them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bench.dataset import Dataset
from bench.files import appears_whole
from bench.policy import SD3Policy
from bench.schema import config_hash
from bench.scorer import Scorer
from bench.tasks.definitions import Task
from bench.tasks.world import Candidates, World

_CHUNK = 256


def cache_folder() -> Path:
    """Where encoded data is kept between runs: `$BENCH_CACHE`, or `~/.cache/bench`."""
    return Path(os.environ.get("BENCH_CACHE") or Path.home() / ".cache" / "bench")


def curate(world: World, task: Task, policy: SD3Policy, select: Scorer | None) -> Dataset:
    """The supervised data of a task, encoded to latent moments; from the cache where it was made before.

    Candidates come from the generator of the pre-training data, flaws included; within each category the `top_share`
    with the highest score is kept. The file's name is a hash of all that it depends on.
    """
    key = _key(world, task, policy, select)
    path = cache_folder() / "curated" / f"{key}.safetensors"
    if path.is_file():
        return _read(path)
    candidates = world.candidates(task.categories or world.categories, task.candidates)
    scores = _scores(candidates, select)
    kept = top_share(scores, [p.category for p in candidates.prompts], task.top_share)
    mean, std = policy.encode_pictures(candidates.images[kept])
    dataset = Dataset(
        mean=mean.cpu(),
        std=std.cpu(),
        prompts=[candidates.prompts[i].text for i in kept],
        metadata=[candidates.prompts[i].metadata for i in kept],
        selected_by=select.name if select else "nothing",
        scored=len(candidates.prompts) if select else 0,
    )
    _write(path, dataset)
    return dataset


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


def _write(path: Path, dataset: Dataset) -> None:
    about = {
        "rows": json.dumps({"prompts": list(dataset.prompts), "metadata": list(dataset.metadata)}),
        "selected_by": dataset.selected_by,
        "scored": str(dataset.scored),
    }
    tensors = {"mean": dataset.mean.contiguous(), "std": dataset.std.contiguous()}
    with appears_whole(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def _read(path: Path) -> Dataset:
    with safe_open(path, framework="pt") as file:
        about: Mapping[str, str] = file.metadata()
        rows = json.loads(about["rows"])
        mean, std = file.get_tensor("mean"), file.get_tensor("std")
    assert isinstance(mean, torch.Tensor)
    return Dataset(mean, std, rows["prompts"], rows["metadata"], about["selected_by"], int(about["scored"]))
