"""What each figure plots, as plain data: the text of the report depends on this data, never on pixels."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import DataError
from bench.results.figures import (
    draw_differences,
    draw_guidance_grid,
    draw_proxy_against_gold,
    draw_sample_grid,
    split_tiles,
)
from bench.results.records.cell_reader import CellResult, damaged, named_file
from bench.results.report.curves import curves_figure
from bench.results.report.figure import Figure, headline_scorers, rounded, scorer_kind, trained
from bench.results.report.gains import gain_paths
from bench.results.report.markdown import printable
from bench.results.statistics.analysis import Analysis

__all__ = [
    "Figure",
    "curves_figure",
    "experiment_figures",
    "headline_scorers",
    "other_figures",
    "rounded",
    "scorer_kind",
]


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
    data = rounded({"methods": trained(analysis, task), "baseline": baseline, "panels": panels})
    caption = (
        f"Differences to {baseline} on the same prompts with 95 % intervals over seeds and prompts. Grey band: the "
        "margin within which a difference is a tie. A filled marker is a verdict of better or worse. "
        "†: fewer than 50 updates."
    )
    return Figure(f"differences-{task}", f"Differences, {task}", caption, data, partial(draw_differences, data))


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
    data = rounded(
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
    data = rounded({"methods": methods, "panels": panels})
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
