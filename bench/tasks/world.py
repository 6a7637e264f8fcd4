"""What a world gives to the harness: a base model, prompts kept apart by split, and candidates to curate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bench.api import ConfigError, Prompt

if TYPE_CHECKING:
    from bench.settings import Experiment

SPLITS = ("train", "tune", "report", "held_out")


@dataclass(frozen=True)
class Candidates:
    """Captioned pictures uint8 (N, H, W, 3) from which a scorer selects the supervised data."""

    images: np.ndarray
    prompts: Sequence[Prompt]


class World(Protocol):
    """A source of data and prompts around one base model."""

    name: str
    version: str
    model: Path
    categories: tuple[str, ...]

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """`count` prompts of one of `SPLITS`; no text of one of train, tune and report occurs in another of them.

        `held_out` has the combinations of attributes that nothing was trained on.
        """

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` fresh pictures from the generator of the pre-training data, flaws included."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Unit-length embeddings (B, D) float32 of pictures uint8 (B, H, W, 3), for diversity."""


def load_world(name: str, model: str | None = None, resolution: int | None = None) -> World:
    """The world of that name, around its own base model or the one given, with pictures of `resolution` pixels.

    Raises:
        ConfigError: there is no such world, or it has no such pictures.
    """
    if name == "scenes":
        from bench.tasks.scenes.world import ScenesWorld

        return ScenesWorld(model)
    if name == "rehearsal":
        from bench.tasks.rehearsal import RehearsalWorld

        return RehearsalWorld(model, resolution)
    raise ConfigError(f"world {name!r}: expected 'scenes' or 'rehearsal'")


def world_of(experiment: Experiment) -> World:
    """The world of an experiment; raises as `load_world` does."""
    return load_world(experiment.world, experiment.model, experiment.runtime.resolution)
