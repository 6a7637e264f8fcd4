"""The worlds by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import ConfigError, Prompt
from bench.config.pictures import Data
from bench.datasets.pictures.world import ImagesWorld
from bench.datasets.prompts.sets import load_sets
from bench.datasets.rehearsal import RehearsalWorld
from bench.datasets.scenes.world import RightScenesWorld, ScenesWorld
from bench.datasets.world import World

if TYPE_CHECKING:
    from bench.config.settings import Experiment


def load_world(
    name: str, model: str | None = None, data: Data | None = None, resolution: int | None = None,
    judges: Sequence[Prompt] = (),
) -> World:  # fmt: skip
    """The world of that name, around its own base model or the one given.

    `data` are the pictures of `images`, `judges` the prompts that judge where all of these train; `resolution` the
    pixels of those of `rehearsal`.

    Raises:
        ConfigError: there is no such world, or it has no such pictures.
    """
    if name in (ScenesWorld.name, RightScenesWorld.name):
        return (ScenesWorld if name == ScenesWorld.name else RightScenesWorld)(model)
    if name == "images":
        return ImagesWorld(data, model, judges)
    if name == "rehearsal":
        return RehearsalWorld(model, resolution)
    raise ConfigError(f"world {name!r}: expected 'scenes', 'scenes-right', 'images' or 'rehearsal'")


def experiment_world(experiment: Experiment) -> World:
    """The world of an experiment; raises as `load_world` does."""
    sets_judge = experiment.data is not None and experiment.data.found is not None and experiment.data.found.all_train
    sets = load_sets(experiment.evaluation.prompt_sets) if sets_judge else []
    judges = [prompt for one in sets for prompt in one.prompts]
    return load_world(experiment.world, experiment.model, experiment.data, experiment.runtime.resolution, judges)
