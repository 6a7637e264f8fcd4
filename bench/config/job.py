"""What a worker needs to run one cell; imports nothing heavy, so that the parent of the workers stays light."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.config.settings import Experiment
from bench.paths import inside


@dataclass(frozen=True)
class CellJob:
    """What a worker needs to run one cell; `label` is a method's, or `base` for the model before training."""

    experiment: Experiment
    results: Path
    task: str
    label: str
    seed: int

    @property
    def name(self) -> str:
        """task/method/seed<k>, as the folders are named."""
        return f"{self.task}/{self.label}/seed{self.seed}"

    @property
    def identity(self) -> str:
        """The cell by its full name, which its checkpoints hold."""
        return f"{self.experiment.name}/{self.name}"

    @property
    def folder(self) -> Path:
        """Where the cell's record lies; raises DataError where a link stands on the way."""
        return inside(self.results, f"{self.experiment.name}/{self.name}")
