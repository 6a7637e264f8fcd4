"""The figure of scores along the budget: differences to the base, with bands between seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.special import stdtrit

from bench.budget import UNITS
from bench.results.figures import draw_budget_curves
from bench.results.report.figure import Figure, headline_scorers, rounded, scorer_kind, trained
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.curves import Run
from bench.results.statistics.intervals import LEVEL
from bench.results.statistics.one_off import one_off

__all__ = ["curves_figure"]

WHOLE = "whole_cost"


def curves_figure(analysis: Analysis, task: str, units: tuple[str, ...]) -> Figure | None:
    """Scores along the budget over these units, those that were recorded; None without a curve."""
    runs = {scorer: analysis.curves(task, scorer) for scorer in headline_scorers(analysis, task)}
    first = next(iter(runs.values()))
    if not first:
        return None
    # a proxy that applies to none of a milestone's prompts has a shorter curve, on other points
    runs = {scorer: of for scorer, of in runs.items() if [run.x for run in of] == [run.x for run in first]}
    base = {scorer: value for scorer, of in runs.items() if (value := _base_mean(of)) is not None}
    recorded = [unit for unit in UNITS if unit != "seconds" or unit in units]  # clocks are no part of the record
    once = {method: one_off(analysis, task, method).total for method in dict.fromkeys(run.method for run in first)}
    listed: list[dict[str, Any]] = [
        {
            "method": run.method,
            "seed": run.seed,
            "x": _axes(run, recorded, once[run.method] if WHOLE in units else None),
            "y": {name: [y - base.get(name, 0.0) for y in of[number].y] for name, of in runs.items()},
        }
        for number, run in enumerate(first)
    ]
    shown = [unit for unit in units if all(unit in run["x"] for run in listed)]
    data = rounded(
        {
            "methods": trained(analysis, task),
            "units": shown,
            "scorers": [
                {"name": scorer, "kind": scorer_kind(analysis, task, scorer), "prompts": of[0].prompts}
                for scorer, of in runs.items()
            ],
            "base": base,
            "runs": listed,
            "means": _means(listed, list(runs), shown),
        }
    )
    caption = _caption(analysis, task, runs, once if WHOLE in shown else {}, has_base=bool(base))
    return Figure(f"curves-{task}", f"Curves, {task}", caption, data, partial(draw_budget_curves, data))


def _axes(run: Run, units: Sequence[str], once: float | None) -> dict[str, Sequence[float]]:
    """What a run had spent at each milestone, in the units that are known."""
    x: dict[str, Sequence[float]] = {unit: run.x[unit] for unit in units if not any(map(math.isnan, run.x[unit]))}
    return x if once is None else x | {WHOLE: [once + cost for cost in run.x["cost"]]}


def _base_mean(runs: Sequence[Run]) -> float | None:
    """The base on the prompts of the curves: where they start."""
    return next((run.y[0] for run in runs if run.x["updates"][0] == 0), None)


def _means(listed: Sequence[Mapping[str, Any]], scorers: Sequence[str], units: Sequence[str]) -> list[dict[str, Any]]:
    """Mean curves over seeds with bands, of the methods whose seeds have equally many milestones."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in listed:
        groups[run["method"]].append(run)
    found = []
    for method, runs in groups.items():
        if len({len(run["x"]["updates"]) for run in runs}) == 1:
            x = {unit: np.mean([run["x"][unit] for run in runs], axis=0).tolist() for unit in units}
            y = {name: np.array([run["y"][name] for run in runs]) for name in scorers}
            half = {name: _half_band(of).tolist() for name, of in y.items()}
            means = {name: of.mean(axis=0).tolist() for name, of in y.items()}
            found.append({"method": method, "x": x, "y": means, "half": half})
    return found


def _half_band(y: np.ndarray) -> np.ndarray:
    """Half of the 95 % interval over seeds of the mean of y (S, M), the prompts held fixed; zero for one seed."""
    seeds = len(y)
    if seeds == 1:
        return np.zeros(y.shape[1])
    return np.asarray(stdtrit(seeds - 1, 0.5 + LEVEL / 2) * y.std(axis=0, ddof=1) / math.sqrt(seeds))


def _caption(
    analysis: Analysis,
    task: str,
    runs: Mapping[str, Sequence[Run]],
    once: Mapping[str, float | None],
    *,
    has_base: bool,
) -> str:
    counts = " or ".join(dict.fromkeys(f"{of[0].prompts:,}" for of in runs.values()))
    budget = analysis.experiment.header.budget or "not stated"
    charged = [f"{method} {cost:,.0f}" for method, cost in once.items() if cost]
    return (
        f"{'Scores minus the base' if has_base else 'Scores'} along the budget on the {counts} prompts that all "
        "milestones share. Lines: mean over seeds; bands: its 95 % interval between seeds, these prompts held fixed"
        f"{'; dotted: the untouched base' if has_base else ''}. Equal cost and equal updates are different "
        f"comparisons; the budget here is the same for all: {budget}."
        + (f" What the data took once: {', '.join(charged)}." if charged else "")
    )
