"""Whether the user's captions are enough for what a run trains on and judges by, told before it begins."""

from __future__ import annotations

from collections.abc import Collection

from bench.api import DataError
from bench.config.settings import Experiment
from bench.datasets.pictures.preparation import MORE_CAPTIONS, PreparedPictures, as_prompt, split_of
from bench.datasets.splits import SPLITS


def require_captions(prepared: PreparedPictures, experiment: Experiment) -> None:
    """Make sure that every task has captions to train on and to be judged by, and as many as its methods take at once.

    Raises:
        DataError: one has not.
    """
    evaluation = experiment.evaluation
    needed = {"train": 1, evaluation.split: 1, **({"held_out": 1} if evaluation.held_out_prompts else {})}
    for chain in experiment.methods:
        for stage in chain.stages:
            needed["train"] = max(needed["train"], stage.build().prompts_at_once)
    for task in experiment.tasks:
        counts = captions_by_split(prepared, task.categories)
        lacking = [split for split, count in needed.items() if counts[split] < count]
        if lacking:
            wanted = ", ".join(f"{needed[split]} in {split} (there {_are(counts[split])})" for split in lacking)
            instead = "; or leave the held-out ones out by --evaluation.held_out_prompts 0" * (lacking == ["held_out"])
            raise DataError(
                f"--data {prepared.settings.path}: its pictures have {sum(counts.values())} different captions for "
                f"task {task.name}, which needs at least {wanted}: {MORE_CAPTIONS}{instead}"
            )


def captions_by_split(prepared: PreparedPictures, categories: Collection[str] | None) -> dict[str, int]:
    """How many different captions of these categories (None: of all) each split has."""
    own = {p.caption for p in prepared.inspected.kept if categories is None or as_prompt(0, p).category in categories}
    return {split: sum(split_of(caption) == split for caption in own) for split in SPLITS}


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count or 'none'}"
