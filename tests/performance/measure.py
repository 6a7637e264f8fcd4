"""Every figure of results/benchmarks, one function each; `rounds` are those that count."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.performance import parts
from tests.performance.cases import CASES, Case, bare, harness, straightforward
from tests.performance.models import fixtures_of
from tests.performance.timing import Ratio, ratio, rounds_of

BATCHES = {1: 32, 4: 16}  # samples of an update, by the width of the denoiser
PICTURES = {1: 16, 4: 8}  # of a rollout phase
MEMORY_BATCH, MEMORY_PICTURES = 32, 16
SLOPE_ROUNDS = 5


def step_ratios(case: Case, width: int, rounds: int, folder: Path) -> dict[str, Ratio]:
    """An update in the harness over its bare passes, and over the straightforward way."""
    stage = case.stage(fixtures_of(folder, width), BATCHES[width], PICTURES[width])
    ways = {"harness": harness(stage), "bare": bare(stage), "straightforward": straightforward(stage)}
    times = rounds_of(ways, rounds)
    return {way: ratio(times["harness"], times[way]) for way in ("bare", "straightforward")}


def part_ratio(name: str, rounds: int, folder: Path) -> Ratio:
    """A part of a run over what it cannot leave out."""
    pair = {
        "sampling": parts.sampling,
        "scoring": parts.scoring,
        "evaluation": parts.evaluation,
        "curation": lambda: parts.curation(folder),
        "checkpoint": lambda: parts.checkpoint(folder),
        "report": parts.report,
    }[name]()
    times = rounds_of(dict(zip(("whole", "bare"), pair, strict=True)), rounds)
    return ratio(times["whole"], times["bare"])


PARTS = ("sampling", "scoring", "evaluation", "curation", "checkpoint", "report")

# What is varied; the settings of a case at each value
_SLOPES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "samples of a batch, SFT": ("sft", "batch", (8, 16, 32, 64)),
    "auxiliary points, SOAR": ("soar, 1 point", "num_points", (1, 2, 4, 6)),
    "pictures of a group, Flow-GRPO": ("flowgrpo", "num_generations", (4, 8, 16)),
    "steps of the window, Flow-GRPO": ("flowgrpo", "window", (1, 3, 5, 9)),
    "width of the denoiser, SFT": ("sft", "width", (1, 2, 4)),
    "image tokens, Flow-GRPO": ("flowgrpo", "resolution", (64, 128, 256)),
}


def slopes(folder: Path) -> Iterator[dict[str, Any]]:
    """CPU seconds of an update and of its bare passes, along six axes."""
    for title, (name, axis, values) in _SLOPES.items():
        (case,) = (case for case in CASES if case.name == name)
        for value in values:
            options = {axis: value} if axis in ("num_points", "num_generations", "window") else {}
            varied = Case(case.name, case.method, {**case.options, **options}, case.train)
            fixtures = fixtures_of(
                folder, value if axis == "width" else 1, resolution=value if axis == "resolution" else None
            )
            stage = varied.stage(fixtures, value if axis == "batch" else 8, 8)
            times = rounds_of({"harness": harness(stage), "bare": bare(stage)}, SLOPE_ROUNDS)
            medians = {way: statistics.median(seconds) for way, seconds in times.items()}
            x = value if axis != "resolution" else (value // 16) ** 2
            yield {"axis": title, "x": x, **medians}


def shown(value: Ratio) -> dict[str, Any]:
    """JSON-able, to a thousandth."""
    return {name: round(part, 3) if isinstance(part, float) else part for name, part in asdict(value).items()}
