"""What a world gives to the harness: a base model, prompts kept apart by split, and candidates to curate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bench.api import ConfigError, Prompt
from bench.data.settings import Data

if TYPE_CHECKING:
    from bench.configuration.settings import Experiment


class Pictures(Protocol):
    """Pictures uint8 (N, H, W, 3) that need not lie in memory: an array, or files that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray:
        """One picture (H, W, 3) by its number, or those of a slice or of an array of numbers (n, H, W, 3)."""


@dataclass(frozen=True)
class Candidates:
    """Captioned pictures uint8 (N, H, W, 3) from which a scorer selects the supervised data.

    `selected_by` names the scorer that chose them before, among `scored` pictures; nobody where it is empty.
    """

    images: Pictures
    prompts: Sequence[Prompt]
    selected_by: str = ""
    scored: int = 0


class World(Protocol):
    """A source of data and prompts around one base model."""

    name: str
    version: str
    model: Path
    categories: tuple[str, ...]

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """`count` prompts of one of `splits.SPLITS`, or all where there are fewer; no text of one occurs in another.

        `held_out` has the combinations of attributes that nothing was trained on, or captions that nothing else uses.
        """

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` pictures to train on, or all where there are fewer, with captions of the train split."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Unit-length embeddings (B, D) float32 of pictures uint8 (B, H, W, 3), for diversity."""


def load_world(name: str, model: str | None = None, data: Data | None = None, resolution: int | None = None) -> World:
    """The world of that name, around its own base model or the one given.

    `data` are the pictures of `images`, `resolution` the pixels of those of `rehearsal`.

    Raises:
        ConfigError: there is no such world, or it has no such pictures.
    """
    if name == "scenes":
        from bench.tasks.scenes.world import ScenesWorld

        return ScenesWorld(model)
    if name == "images":
        from bench.tasks.images import ImagesWorld

        return ImagesWorld(data, model)
    if name == "rehearsal":
        from bench.tasks.rehearsal import RehearsalWorld

        return RehearsalWorld(model, resolution)
    raise ConfigError(f"world {name!r}: expected 'scenes', 'images' or 'rehearsal'")


def world_of(experiment: Experiment) -> World:
    """The world of an experiment; raises as `load_world` does."""
    return load_world(experiment.world, experiment.model, experiment.data, experiment.runtime.resolution)
