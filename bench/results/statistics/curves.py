"""Curves: mean scores at every milestone of a cell, on the prompts that all milestones of all cells share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.budget import UNITS
from bench.results.records.schema import BASE

__all__ = ["Run", "curves_of"]


@dataclass(frozen=True)
class Run:
    """One cell's curve: `x[unit]` (M,) and the mean scores `y` (M,) on the `prompts` that all milestones share."""

    method: str
    seed: int
    prompts: int
    x: Mapping[str, tuple[float, ...]]
    y: tuple[float, ...]


def curves_of(
    rows: pd.DataFrame, scorer: str, marks: pd.DataFrame, task: str, seeds: Mapping[str, tuple[int, ...]]
) -> list[Run]:
    """The curves of a task's methods and `seeds`: `rows` are their samples, `marks` all milestones."""
    cells = ["method", "seed", "update"]
    rows = rows[[*cells, "prompt_index", scorer]]
    times = rows.groupby("prompt_index").size()
    shared = rows[rows["prompt_index"].isin(times.index[times == rows.groupby(cells).ngroups])]
    means: dict[tuple[str, int], dict[int, float]] = {}
    for (method, seed, update), mean in shared.groupby(cells)[scorer].mean().items():
        means.setdefault((method, seed), {})[update] = float(mean)
    start = means.get((BASE, 0), {}).get(0)
    prompts = int(shared["prompt_index"].nunique())
    spent = marks[marks["task"] == task].set_index(cells)[list(UNITS)].to_dict("index")
    wanted = [(method, seed) for method, of in seeds.items() for seed in of]
    # a scorer may apply to none of the shared prompts
    return [_run(*cell, prompts, means[cell], spent, start) for cell in wanted if cell in means]


def _run(
    method: str, seed: int, prompts: int, means: Mapping[int, float], spent: Mapping[Any, Mapping[str, float]],
    start: float | None,
) -> Run:  # fmt: skip
    x = {unit: [float(spent[(method, seed, update)][unit]) for update in means] for unit in UNITS}
    y = list(means.values())
    if start is not None and 0 not in means:
        x, y = {unit: [0.0, *values] for unit, values in x.items()}, [start, *y]
    return Run(method, seed, prompts, {unit: tuple(values) for unit, values in x.items()}, tuple(y))
