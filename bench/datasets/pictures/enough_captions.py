"""Whether the user's captions and pairs are enough for what a run trains on and judges by, told before it begins."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from bench.api import DataError
from bench.config.settings import Experiment
from bench.datasets.pictures.preparation import (
    MORE_CAPTIONS,
    PreparedPictures,
    as_prompt,
    prepare_pictures,
    require_pictures,
)
from bench.datasets.prompts.sets import judgeable, load_sets
from bench.datasets.splits import SPLITS

_OWN_PROMPTS = "train on all of them, and judge by prompts of your own (--evaluation.prompt_sets.NAME FILE)"
_MORE_TO_TRAIN = "give more captions, or have the method take fewer at once"


def pictures_of(experiment: Experiment, model: Path) -> PreparedPictures:
    """The user's pictures, prepared; where their captions are too few and there are prompt sets, all of them train.

    Then the prompts of the sets stand for those of the split `report`.
    """
    prepared = prepare_pictures(require_pictures(experiment.data), model)
    if experiment.evaluation.prompt_sets and any(_lacking(prepared, experiment).values()):
        return prepare_pictures(prepared.settings, model, all_train=True)
    return prepared


def require_captions(prepared: PreparedPictures, experiment: Experiment) -> None:
    """Make sure that every task has captions to train on and to be judged by, and as many as its methods take at once.

    Raises:
        DataError: one has not, or no pair for a method that needs them, or its headline cannot judge the prompts of
            the sets that stand in their place.
    """
    _require_pairs(prepared, experiment)
    for task, wanted in _lacking(prepared, experiment).items():
        if wanted:
            needed = ", ".join(f"{need} in {split} (there {_are(there)})" for split, (need, there) in wanted.items())
            mend = _MORE_TO_TRAIN if prepared.found.all_train else f"{MORE_CAPTIONS}; or {_OWN_PROMPTS}"
            instead = "; or leave the held-out ones out by --evaluation.held_out_prompts 0" * (
                list(wanted) == ["held_out"]
            )
            count = sum(captions_by_split(prepared, experiment.task(task).categories).values())
            raise DataError(
                f"--data {prepared.settings.path}: its pictures have {count} different captions for task {task}, which "
                f"needs at least {needed}: {mend}{instead}"
            )
    if prepared.found.all_train:
        prompts = [prompt for one in load_sets(experiment.evaluation.prompt_sets) for prompt in one.prompts]
        for one in experiment.tasks:
            if not judgeable(one.primary, prompts):
                raise DataError(
                    f"task {one.name}: its captions are too few to judge by, and its headline {one.primary} can judge "
                    f"none of the {len(prompts)} prompts of --evaluation.prompt_sets (`bench list {one.primary}` says "
                    "what it needs to know of a prompt): give it prompts that it can judge, or another --reward"
                )


def _require_pairs(prepared: PreparedPictures, experiment: Experiment) -> None:
    for chain in experiment.methods:
        if prepared.found.pairs == 0 and any(stage.build().needs.pairs for stage in chain.stages):
            raise DataError(
                f"--data {prepared.settings.path}: {chain.label} trains on pairs of a chosen and a rejected picture, "
                f"and none of the {prepared.found.training} pictures to train on has a rejected one: name it beside "
                "each (`rejected_file_name` beside `file_name`, `rejected_image` beside `image`, or a column that "
                "--data.rejected_column names; Pick-a-Pic's jpg_0, jpg_1, label_0, label_1 are read as they are), or "
                f"leave {chain.label} out of --methods"
            )


def _lacking(prepared: PreparedPictures, experiment: Experiment) -> dict[str, dict[str, tuple[int, int]]]:
    """By task the splits that lack captions, each with how many are needed and how many are there."""
    evaluation = experiment.evaluation
    judged = [evaluation.split, *(["held_out"] if evaluation.held_out_prompts else [])]
    needed = {"train": 1, **({} if prepared.found.all_train else dict.fromkeys(judged, 1))}
    for chain in experiment.methods:
        for stage in chain.stages:
            needed["train"] = max(needed["train"], stage.build().prompts_at_once)
    lacking = {}
    for task in experiment.tasks:
        there = captions_by_split(prepared, task.categories)
        lacking[task.name] = {split: (n, there[split]) for split, n in needed.items() if there[split] < n}
    return lacking


def captions_by_split(prepared: PreparedPictures, categories: Collection[str] | None) -> dict[str, int]:
    """How many different captions of these categories (None: of all) each split has."""
    own = {p.caption for p in prepared.inspected.kept if categories is None or as_prompt(0, p).category in categories}
    return {split: sum(prepared.split_of(caption) == split for caption in own) for split in SPLITS}


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count or 'none'}"
