"""Small experiments on the tiny world."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.config.job import CellJob
from bench.config.load import Experiment, load_settings
from bench.datasets.world import World
from bench.datasets.worlds import load_world
from bench.experiments.cell import run_cell
from bench.results.records.writer import RECORD
from bench.scoring.loading import load_scorers
from bench.scoring.scorer import Scorer

GOLD = ["scenes-geneval", "scenes-ocr", "scenes-aesthetic"]


def settings(pipeline: Path, **overrides: Any) -> dict[str, Any]:
    """What changes the smoke preset to the tiny pipeline, with gold scorers in every role: no proxy is needed."""
    return {
        "model": str(pipeline),
        "task.scorers": GOLD,
        "task.reward": "scenes-aesthetic",
        "task.select": "scenes-geneval",
        "task.candidates": 64,
        "evaluation.diversity_prompts": 0,
        "evaluation.milestone_prompts": 4,
        "evaluation.final_prompts": 6,
        "evaluation.held_out_prompts": 2,
        "evaluation.grid_prompts": 2,
        "evaluation.pictures": 2,
        "evaluation.steps": 2,
        "evaluation.grid_steps": [2],
        "evaluation.drift_states": 4,
        "train.batch_size": 8,
        "budget": "400",
        **overrides,
    }


class Events:
    """A display of runs that remembers, and may act on what it sees."""

    def __init__(self, act: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.seen: list[dict[str, Any]] = []
        self._act = act

    def handle(self, event: dict[str, Any]) -> None:
        """Take one event."""
        self.seen.append(event)
        if self._act:
            self._act(event)


def experiment(pipeline: Path, **overrides: Any) -> Experiment:
    """The experiment of these settings."""
    return load_settings("smoke", settings(pipeline, **overrides))


def options(pipeline: Path, **overrides: Any) -> list[str]:
    """The same on the command line."""
    values = settings(pipeline, **overrides).items()
    return [f"--{name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in values]


def scorers(e: Experiment) -> dict[str, Scorer]:
    """The experiment's scorers, loaded."""
    task = e.tasks[0]
    return load_scorers(set(task.scorers) | {task.reward, task.select})


def world(pipeline: Path) -> World:
    """The tiny world."""
    return load_world("scenes", str(pipeline))


def run(e: Experiment, results: Path, label: str, seed: int = 0) -> list[dict[str, Any]]:
    """Run one cell in this process; returns its events."""
    events: list[dict[str, Any]] = []
    run_cell(CellJob(e, results, e.tasks[0].name, label, seed), events.append)
    return events


def facts(folder: Path) -> dict[str, bytes]:
    """The deterministic files of a cell, by name.

    Without the sources in its record: they are what its process had imported, and that of the tests imports ever more.
    """
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name != "telemetry.jsonl"]
    return {p.name: _without_sources(p) if p.name == RECORD else p.read_bytes() for p in files}


def _without_sources(record: Path) -> bytes:
    events = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    for held in (events[0]["provenance"], *events):
        for name in ("sources", "sources_hash", "hash"):  # the hash of a line is of all lines before it, too
            held.pop(name, None)
    return json.dumps(events).encode()
