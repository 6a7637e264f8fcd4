"""What each figure plots, as plain data: the text of the report depends on this data, never on pixels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import DataError
from bench.budget import UNITS
from bench.canonical import canonical_json
from bench.results.figures import (
    draw_budget_curves,
    draw_differences,
    draw_guidance_grid,
    draw_proxy_against_gold,
    draw_sample_grid,
    split_tiles,
)
from bench.results.figures.style import Form
from bench.results.records.cell_reader import CellResult, damaged, named_file
from bench.results.records.schema import BASE
from bench.results.report.gains import gain_paths
from bench.results.report.markdown import printable
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.curves import Run

__all__ = ["Figure", "curves_figure", "experiment_figures", "headline_scorers", "other_figures", "scorer_kind"]

SIGNIFICANT = 6


@dataclass(frozen=True)
class Figure:
    """One figure: `<name>.png` is drawn from `data`, which is stored beside it as `<name>.json`; SVG shows the same."""

    name: str
    title: str
    caption: str
    data: dict[str, Any]
    draw: Callable[[Form], bytes]

    @property
    def data_hash(self) -> str:
        """16 hex digits of the plotted data."""
        return blake2b(canonical_json(self.data).encode(), digest_size=8).hexdigest()


def _rounded(value: Any) -> Any:
    """Floats cut to 6 significant digits, so that the last bits of another processor do not count."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.{SIGNIFICANT}g}")
    return value


def scorer_kind(analysis: Analysis, task: str, scorer: str) -> str:
    """`gold` or `proxy`, and whether the task trains on it or selects data by it."""
    info = analysis.task_info(task)
    used = ", used in training" if scorer in info.used else ""
    return ("gold" if analysis.info(scorer).gold else "proxy") + used


def headline_scorers(analysis: Analysis, task: str) -> list[str]:
    """The primary scorer and the training reward: what a task is about."""
    reward = analysis.task_info(task).reward
    names = [analysis.primary(task), *([reward] if reward in analysis.scorers(task) and reward else [])]
    proxies = [s for s in analysis.scorers(task) if analysis.info(s).pair == names[0]]
    return list(dict.fromkeys([*names, *proxies[:1]]))[:2]


def experiment_figures(analysis: Analysis, units: tuple[str, ...]) -> list[Figure]:
    """All figures that the records of an experiment allow."""
    found: list[Figure | None] = [_proxy_against_gold(analysis)]
    for task in analysis.tasks:
        found += [
            _differences(analysis, task),
            curves_figure(analysis, task, units),
            _guidance_grid(analysis, task),
            _samples(analysis, task),
        ]
    return [figure for figure in found if figure is not None]


def other_figures(analysis: Analysis) -> list[Figure]:
    """Those of lines and points besides the curves, which depend on no unit of the budget."""
    found = [_proxy_against_gold(analysis)]
    found += [draw(analysis, task) for task in analysis.tasks for draw in (_differences, _guidance_grid)]
    return [figure for figure in found if figure is not None]


def _differences(analysis: Analysis, task: str) -> Figure | None:
    """Differences to the baseline under every scorer of a task."""
    baseline, panels = analysis.baseline(task), []
    for scorer in analysis.scorers(task):
        points = []
        for method in analysis.methods(task):
            row = analysis.row(task, method, scorer)
            if row and baseline in row.differences:
                found = row.differences[baseline]
                between = {"mean": found.interval.mean, "low": found.interval.low, "high": found.interval.high}
                few = analysis.few_updates(task, method)
                points.append({"method": method, "verdict": found.word, "few": few, **between})
        if points:
            better = "right" if analysis.info(scorer).higher_is_better else "left"
            margin = analysis.margin(task, scorer)
            panel = {"scorer": scorer, "kind": scorer_kind(analysis, task, scorer), "margin": margin, "better": better}
            panels.append({**panel, "points": points})
    if not panels:
        return None
    data = _rounded({"methods": _trained(analysis, task), "baseline": baseline, "panels": panels})
    caption = (
        f"Differences to {baseline} on the same prompts with 95 % intervals over seeds and prompts. Grey band: the "
        "margin within which a difference is a tie. A filled marker is a verdict of better or worse. "
        "†: fewer than 50 updates."
    )
    return Figure(f"differences-{task}", f"Differences, {task}", caption, data, partial(draw_differences, data))


def curves_figure(analysis: Analysis, task: str, units: tuple[str, ...]) -> Figure | None:
    """Scores along the budget over these units, those that were recorded; None without a curve."""
    runs = {scorer: analysis.curves(task, scorer) for scorer in headline_scorers(analysis, task)}
    first = next(iter(runs.values()))
    if not first:
        return None
    recorded = [unit for unit in UNITS if unit != "seconds" or unit in units]  # clocks are no part of the record
    # a proxy that applies to none of a milestone's prompts has a shorter curve, on other points
    runs = {scorer: of for scorer, of in runs.items() if [run.x for run in of] == [run.x for run in first]}
    scorers = list(runs)
    listed: list[dict[str, Any]] = [
        {
            "method": run.method,
            "seed": run.seed,
            "x": {unit: run.x[unit] for unit in recorded if not any(map(math.isnan, run.x[unit]))},
            "y": {scorer: runs[scorer][number].y for scorer in scorers},
        }
        for number, run in enumerate(first)
    ]
    shown = [unit for unit in units if all(unit in run["x"] for run in listed)]
    base = {scorer: value for scorer in scorers if (value := _base_mean(analysis, task, scorer)) is not None}
    data = _rounded(
        {
            "methods": _trained(analysis, task),
            "units": shown,
            "scorers": [
                {"name": scorer, "kind": scorer_kind(analysis, task, scorer), "prompts": runs[scorer][0].prompts}
                for scorer in scorers
            ],
            "base": base,
            "runs": listed,
            "means": _means(first, runs, shown),
        }
    )
    counts = dict.fromkeys(f"{runs[scorer][0].prompts:,}" for scorer in scorers)
    caption = (
        f"Scores along the budget on the {' or '.join(counts)} prompts that all milestones share. Lines: mean over "
        "seeds; bands: from the "
        "lowest seed to the highest; dotted: the untouched base. Equal cost and equal updates are different "
        "comparisons; the budget "
        f"here is the same for all: {analysis.experiment.header.budget or 'not stated'}."
    )
    return Figure(f"curves-{task}", f"Curves, {task}", caption, data, partial(draw_budget_curves, data))


def _base_mean(analysis: Analysis, task: str, scorer: str) -> float | None:
    """The base on the prompts of the curves: where they start."""
    starts = [run.y[0] for run in analysis.curves(task, scorer) if run.x["updates"][0] == 0]
    return starts[0] if starts else None


def _means(first: list[Run], runs: dict[str, list[Run]], units: list[str]) -> list[dict[str, Any]]:
    """Mean curves over seeds, of the methods whose seeds have equally many milestones."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, run in enumerate(first):
        groups[run.method].append(number)
    found = []
    for method, members in groups.items():
        if len({len(first[number].y) for number in members}) == 1:
            x = {unit: np.mean([first[number].x[unit] for number in members], axis=0).tolist() for unit in units}
            y = {name: np.mean([of[number].y for number in members], axis=0).tolist() for name, of in runs.items()}
            found.append({"method": method, "x": x, "y": y})
    return found


def _guidance_grid(analysis: Analysis, task: str) -> Figure | None:
    """Scores over guidance scales and step counts at the end of the budget."""
    guidance, steps = analysis.grid.settings(task)
    if len(guidance) * len(steps) < 2:
        return None
    scorers = headline_scorers(analysis, task)
    means = {scorer: analysis.grid.means(task, scorer) for scorer in scorers}
    values: dict[str, Any] = {scorer: {} for scorer in scorers}
    for scorer in scorers:
        for method in analysis.methods(task):
            rows = [[means[scorer].get((method, scale, n)) for scale in guidance] for n in steps]
            if all(value is not None for row in rows for value in row):
                values[scorer][method] = rows
    named = [{"name": scorer, "kind": scorer_kind(analysis, task, scorer)} for scorer in scorers]
    data = _rounded(
        {
            "methods": list(analysis.methods(task)),
            "scorers": named,
            "guidance": list(guidance),
            "steps": list(steps),
            "values": values,
        }
    )
    caption = (
        "Scores at the end over the guidance scale, one column a number of sampling steps; means over seeds on a "
        "subset of the prompts. Where the order of methods changes from panel to panel, no single setting tells it."
    )
    return Figure(f"grid-{task}", f"Guidance and steps, {task}", caption, data, partial(draw_guidance_grid, data))


def _proxy_against_gold(analysis: Analysis) -> Figure | None:
    """Gains of proxy and gold along the budget, one panel a task."""
    panels = [panel for task in analysis.tasks for panel in gain_paths(analysis, task)]
    if not panels:
        return None
    methods = list(dict.fromkeys(path["method"] for panel in panels for path in panel["paths"]))
    data = _rounded({"methods": methods, "panels": panels})
    caption = (
        "Gain over the base along the budget, in standard deviations of the base's scores over prompts, mean over "
        "seeds; arrows point from the start to the end. Above the dashed diagonal the proxy gains more than gold; to "
        "the left of the axis gold falls."
    )
    return Figure("proxy-gold", "Proxy against gold", caption, data, partial(draw_proxy_against_gold, data))


def _samples(analysis: Analysis, task: str) -> Figure | None:
    """Pictures of the same prompts and noise, side by side; the first finished seed of each method."""
    cells: dict[str, CellResult] = {}
    for cell in analysis.experiment.results:
        if cell.header.task == task and cell.status == "done" and cell.pictures:
            cells.setdefault(cell.header.method, cell)
    columns = [method for method in analysis.methods(task) if method in cells]
    if not columns:
        return None
    rows = {method: cell.pictures for method, cell in cells.items() if cell.pictures}
    first = rows[columns[0]]
    odd = [method for method in columns if rows[method].prompt_indices != first.prompt_indices]
    if odd:
        raise DataError(f"{task}: the pictures of {', '.join(odd)} show other prompts than those of {columns[0]}")
    tiles = {m: _tiles(named_file(cells[m], rows[m].file), first.tile, len(first.captions)) for m in columns}
    data = {
        "columns": columns,
        "captions": [printable(caption) for caption in first.captions],
        "prompt_indices": list(first.prompt_indices),
        "seeds": {method: cells[method].header.seed for method in columns},
        "pictures": {m: blake2b(np.concatenate(tiles[m]).tobytes(), digest_size=8).hexdigest() for m in columns},
    }
    caption = (
        f"The first {len(first.captions)} prompts, not chosen, at guidance {first.guidance:g} and {first.steps} steps: "
        "the same prompt and the same initial noise in every row. Columns: the base and each method's first seed."
    )
    return Figure(f"samples-{task}", f"Samples, {task}", caption, data, partial(draw_sample_grid, data, tiles))


def _tiles(path: Path, tile: tuple[int, int], count: int) -> list[np.ndarray]:
    try:
        return split_tiles(path.read_bytes(), tile, count)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on bytes that are no whole picture
        raise damaged(path, "a PNG", error) from error


def _trained(analysis: Analysis, task: str) -> list[str]:
    return [method for method in analysis.methods(task) if method != BASE]
