"""The worlds by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import ConfigError
from bench.config.pictures import Data
from bench.datasets.pictures.world import ImagesWorld
from bench.datasets.rehearsal import RehearsalWorld
from bench.datasets.scenes.world import ScenesWorld
from bench.datasets.world import World

if TYPE_CHECKING:
    from bench.config.settings import Experiment


def load_world(name: str, model: str | None = None, data: Data | None = None, resolution: int | None = None) -> World:
    """The world of that name, around its own base model or the one given.

    `data` are the pictures of `images`, `resolution` the pixels of those of `rehearsal`.

    Raises:
        ConfigError: there is no such world, or it has no such pictures.
    """
    if name == "scenes":
        return ScenesWorld(model)
    if name == "images":
        return ImagesWorld(data, model)
    if name == "rehearsal":
        return RehearsalWorld(model, resolution)
    raise ConfigError(f"world {name!r}: expected 'scenes', 'images' or 'rehearsal'")


def experiment_world(experiment: Experiment) -> World:
    """The world of an experiment; raises as `load_world` does."""
    return load_world(experiment.world, experiment.model, experiment.data, experiment.runtime.resolution)
