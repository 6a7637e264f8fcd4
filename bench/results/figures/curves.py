"""Line figures: scores along the budget, over guidance and steps, and proxy against gold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.results.figures.style import UNIT_TITLES, Look, looks, panels, plain_axes, short_number, to_png
from bench.results.records.schema import BASE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_budget_curves", "draw_guidance_grid", "draw_proxy_against_gold"]

WIDE_RATIO = 6.0  # of the methods' furthest points, from which on a linear axis would hide the shorter curves


def draw_budget_curves(data: Mapping[str, Any]) -> bytes:
    """Rows are scorers, columns units; thin lines are single seeds, thick ones their mean.

    data: methods [..], units [..], scorers [{name, kind}], base {scorer: y}, runs [{method, seed, x {unit: [..]},
    y {scorer: [..]}}], means [{method, x {unit: [..]}, y {scorer: [..]}}].
    """
    scorers, units, look = data["scorers"], data["units"], looks(data["methods"])
    shape: dict[str, Any] = {"size": (3.7, 2.2), "gap": (0.25, 0.55), "left": 0.95, "top": 0.1}
    with panels(len(scorers), len(units), **shape, legend=[BASE, *data["methods"]], look=look, sharey="row") as (
        figure,
        grid,
    ):
        for row, scorer in zip(grid, scorers, strict=True):
            for axes, unit in zip(row, units, strict=True):
                _budget_panel(axes, data, unit, scorer["name"], look)
            row[0].set_ylabel(f"{scorer['name']}\n({scorer['kind']})")
        return to_png(figure)


def _budget_panel(axes: Axes, data: Mapping[str, Any], unit: str, scorer: str, look: Mapping[str, Look]) -> None:
    from matplotlib.ticker import LogLocator

    plain_axes(axes)
    furthest = [max(mean["x"][unit]) for mean in data["means"] if max(mean["x"][unit]) > 0]
    logarithmic = bool(furthest) and max(furthest) > WIDE_RATIO * min(furthest)
    axes.set_xlabel(UNIT_TITLES[unit] + (", logarithmic" if logarithmic else ""))
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(short_number)
    if scorer in data["base"]:
        base = look[BASE]
        axes.axhline(data["base"][scorer], color=base.color, linestyle=base.dashes, linewidth=1.2)
    several = {run["method"] for run in data["runs"] if run["seed"] != data["runs"][0]["seed"]}
    for run in data["runs"]:
        if run["method"] in several:
            x, y = _positive(run["x"][unit], run["y"][scorer], logarithmic)
            axes.plot(x, y, color=look[run["method"]].color, linewidth=0.7, alpha=0.45)
    for mean in data["means"]:
        one = look[mean["method"]]
        x, y = _positive(mean["x"][unit], mean["y"][scorer], logarithmic)
        axes.plot(x, y, color=one.color, marker=one.marker, linestyle=one.dashes, linewidth=1.8, markersize=5)


def _positive(x: Sequence[float], y: Sequence[float], wanted: bool) -> tuple[list[float], list[float]]:
    """Points that a logarithmic axis can show; the start at 0 is the base's line."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a > 0 or not wanted]
    return [a for a, _ in kept], [b for _, b in kept]


def draw_guidance_grid(data: Mapping[str, Any]) -> bytes:
    """Rows are scorers, columns step counts; x is the guidance scale.

    data: methods [..], scorers [{name, kind}], guidance [..], steps [..], values {scorer: {method: [[y by guidance] by
    steps]}}.
    """
    scorers, steps, look = data["scorers"], data["steps"], looks(data["methods"])
    shape: dict[str, Any] = {"size": (2.7, 2.1), "gap": (0.2, 0.5), "left": 0.95, "top": 0.3}
    with panels(len(scorers), len(steps), **shape, legend=data["methods"], look=look, sharey="row", sharex=True) as (
        figure,
        grid,
    ):
        for row, scorer in zip(grid, scorers, strict=True):
            for number, axes in enumerate(row):
                plain_axes(axes)
                for method, values in data["values"][scorer["name"]].items():
                    one = look[method]
                    style = {"color": one.color, "marker": one.marker, "linestyle": one.dashes}
                    axes.plot(data["guidance"], values[number], linewidth=1.6, markersize=5, **style)
            row[0].set_ylabel(f"{scorer['name']}\n({scorer['kind']})")
        for axes, count in zip(grid[0], steps, strict=True):
            axes.set_title(f"{count} sampling steps")
        for axes in grid[-1]:
            axes.set_xlabel("guidance scale")
            axes.set_xticks(data["guidance"], [f"{value:g}" for value in data["guidance"]])
        return to_png(figure)


def draw_proxy_against_gold(data: Mapping[str, Any]) -> bytes:
    """One panel a task: gain of the proxy over gain of gold, both in standard deviations of the base's scores.

    data: methods [..], panels [{task, proxy, gold, paths [{method, gold [..], proxy [..]}]}].
    """
    look, shown = looks(data["methods"]), data["panels"]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    shape: dict[str, Any] = {"size": (3.0, 2.8), "gap": (0.75, 0.75), "left": 0.75, "top": 0.3}
    with panels(rows, columns, **shape, legend=data["methods"], look=look) as (figure, grid):
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.ravel(), shown, strict=False):
            plain_axes(axes)
            axes.axhline(0, color="#888888", linewidth=0.8)
            axes.axvline(0, color="#888888", linewidth=0.8)
            for path in panel["paths"]:
                one = look[path["method"]]
                style = {"color": one.color, "marker": one.marker, "linestyle": one.dashes}
                axes.plot(path["gold"], path["proxy"], linewidth=1.6, markersize=5, **style)
            low, high = axes.get_xlim()
            bottom, top = axes.get_ylim()
            ends = [max(low, bottom), min(high, top)]
            axes.plot(ends, ends, color="#888888", linewidth=0.8, linestyle="--", zorder=1)
            axes.set(xlim=(low, high), ylim=(bottom, top), title=panel["task"])
            axes.set_xlabel(f"gain of {panel['gold']} (gold)")
            axes.set_ylabel(f"gain of {panel['proxy']} (proxy)")
        return to_png(figure)
