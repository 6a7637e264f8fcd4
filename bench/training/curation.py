"""Curated data for supervised methods: the top share of fresh candidates as a scorer ranks them, or pairs of these."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import DataError, Needs
from bench.canonical import config_hash
from bench.config.task import Task
from bench.datasets.buckets import Size
from bench.datasets.dataset import BucketedDataset, Dataset, Moments
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
    task, select = _task(context, needs), chooses(context, needs)
    return context.ranks.first_rank_first(
        lambda: curated_data(context.world, task, context.policy, select, context.note, pairs=needs.pairs)
    )


def chooses(context: TaskContext, needs: Needs) -> Scorer | None:
    """The scorer that chooses this data, None where none does."""
    task = _task(context, needs)
    name = task.reward if needs.pairs else task.select
    return context.scorers[name] if name else None


def _task(context: TaskContext, needs: Needs) -> Task:
    return context.task.unselected if needs.unselected else context.task


def curated_data(
    world: World, task: Task, policy: PipelinePolicy, select: Scorer | None, note: Callable[[str], object] = print,
    *, pairs: bool = False,
) -> Dataset | BucketedDataset:  # fmt: skip
    """The supervised data of a task: which pictures, kept where it was found out before, and their latent moments.

    Candidates come from the world (the generator of the pre-training data, flaws included, or the user's pictures);
    within each category the `top_share` with the highest score is kept. Of `pairs`, as many pictures as candidates are
    scored where it is not known which one is better. The folder in the cache is named by a hash of all that the choice
    depends on. What is damaged there is told to `note` and made again. Moments are encoded once, and read from the
    cache of encodings when they are drawn.
    """
    choice = Checkpoints(cache_folder() / "curated" / _key(world, task, policy, select, pairs=pairs))
    saved, complaints = choice.load()
    for complaint in complaints:
        note(f"curated data: {complaint}; it is made again")
    categories = task.categories or world.categories
    found = functools.cache(
        lambda: world.pairs(categories, max(1, task.candidates // 2)) if pairs
        else world.candidates(categories, task.candidates)
    )  # fmt: skip
    if saved is not None:
        state = saved.state
    else:
        state = _chosen_pairs(found(), task, select, note) if pairs else _chosen(found(), task, select)
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
    size = part["size"] and tuple(part["size"])
    kinds = [part, *([part["rejected"]] if "rejected" in part else [])]

    def moments(kind: Mapping[str, Any]) -> Moments:
        rows = np.array(kind["rows"])

        def pixels(numbers: np.ndarray) -> np.ndarray:
            buckets = {bucket.size: bucket.images for bucket in candidates().buckets}
            # one choice serves pictures without buckets and those whose only bucket is the square
            return buckets.get(size, candidates().images)[rows[numbers]]

        share = 1 / (len(kinds) * len(state["parts"]))
        pictures = moments_of(policy, kind["digests"], pixels, size, share=share)
        pictures.prepare(range(len(rows)))
        return lambda index: stacked(pictures, [int(i) for i in index])

    chosen, *rejected = [moments(kind) for kind in kinds]
    return Dataset(
        chosen, part["prompts"], part["metadata"], state["selected_by"], state["scored"], part.get("more", ()),
        *rejected,
    )  # fmt: skip


def _chosen(candidates: Candidates, task: Task, select: Scorer | None) -> dict[str, Any]:
    """Which candidates are kept, by the size that they are trained on, and what a data set says of itself."""
    scores = _scores(candidates, select)
    judged = np.flatnonzero(~np.isnan(scores))
    if select is not None and not len(judged):
        raise DataError(f"{select.name} abstains from all {len(scores)} candidates: select by another scorer")
    kept = judged[
        top_share(scores[judged], [candidates.prompts[row].category for row in judged.tolist()], task.top_share)
    ]
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


def _chosen_pairs(
    candidates: Candidates, task: Task, judge: Scorer | None, note: Callable[[str], object]
) -> dict[str, Any]:
    """Which picture of each pair is chosen and which rejected, by the size that they are trained on."""
    parts = []
    for bucket in candidates.buckets:  # of ranked pairs alone: nothing is scored at these sizes
        chosen, rejected = (
            _part(candidates, bucket.size, rows, bucket.rows[rows], [bucket.digests[row] for row in rows])
            for rows in np.arange(len(bucket.rows)).reshape(2, -1).tolist()
        )
        parts.append(_with_rejected(chosen, rejected))
    if not candidates.buckets:
        chosen, rejected = (
            _part(candidates, None, rows.tolist(), rows, digests_of(candidates, rows.tolist()))
            for rows in _ranked(candidates, task, judge, note)
        )
        parts.append(_with_rejected(chosen, rejected))
    if candidates.ranked or judge is None:
        return {"parts": parts, "selected_by": candidates.selected_by or "nothing", "scored": 0}
    return {"parts": parts, "selected_by": judge.name, "scored": len(candidates.prompts)}


def _with_rejected(chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    return chosen | {"rejected": {name: rejected[name] for name in ("rows", "digests")}}


def _ranked(
    candidates: Candidates, task: Task, judge: Scorer | None, note: Callable[[str], object]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the better and of the worse picture of each pair that has one.

    Raises:
        DataError: none has.
    """
    first, second = np.arange(len(candidates.prompts)).reshape(2, -1)
    if candidates.ranked:
        return first, second
    assert judge is not None  # a task without one is refused before anything runs
    scores = _scores(candidates, judge)
    better, worse = np.where(scores[first] >= scores[second], (first, second), (second, first))
    told = scores[better] > scores[worse]  # not where one is NaN, from which the judge abstains
    if not told.any():
        raise DataError(
            f"task {task.name}: {judge.name} gives both pictures of each of {len(first):,} pairs the same score, or "
            "abstains, so that none is better: name another scorer by --task.reward, or raise --task.candidates"
        )
    if not told.all():
        ties = np.count_nonzero(~told)
        note(
            f"pairs: {ties:,} of {len(first):,} are left out: {judge.name} scores their pictures the same, or abstains"
        )
    return better[told], worse[told]


def _part(
    candidates: Candidates, size: Size | None, rows: list[int], numbers: np.ndarray, digests: Sequence[str]
) -> dict[str, Any]:
    """The pictures of one size: `rows` among its pictures, `numbers` among all candidates; each as often as shown."""
    if candidates.repeats:
        times = [candidates.repeats[number] for number in numbers]
        numbers = np.repeat(numbers, times)
        rows, digests = (np.repeat(list(each), times).tolist() for each in (rows, digests))
    prompts = [candidates.prompts[number] for number in numbers]
    return {
        "size": size, "rows": rows, "digests": list(digests), "prompts": [p.text for p in prompts],
        "metadata": [p.metadata for p in prompts],
    } | ({"more": [list(candidates.more[number]) for number in numbers]} if candidates.more else {})  # fmt: skip


def _scores(candidates: Candidates, select: Scorer | None) -> np.ndarray:
    if select is None:
        return np.zeros(len(candidates.prompts), np.float32)
    parts = []
    for start in range(0, len(candidates.prompts), _CHUNK):
        prompts = candidates.prompts[start : start + _CHUNK]
        images = candidates.images[start : start + _CHUNK]
        parts.append(select.training_scores(images, [p.text for p in prompts], [p.metadata for p in prompts]))
    return np.concatenate(parts)


def _key(world: World, task: Task, policy: PipelinePolicy, select: Scorer | None, *, pairs: bool) -> str:
    parts: dict[str, Any] = {
        "world": [world.name, world.version],
        "version": _VERSION,
        "latent": list(policy.latent_shape),
        "categories": list(task.categories or world.categories),
        "candidates": task.candidates,
        "top_share": task.top_share,
        "select": [select.name, select.reward.version, select.fingerprint, select.code] if select else None,
    }
    return config_hash(parts | ({"pairs": True} if pairs else {}))
