"""Line figures: scores along the budget, over guidance and steps, and proxy against gold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.results.figures.style import (
    LINE,
    UNIT_TITLES,
    Form,
    Look,
    fitted,
    line_count,
    looks,
    panels,
    plain_axes,
    saved,
    short_number,
)
from bench.results.records.schema import BASE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_budget_curves", "draw_guidance_grid", "draw_proxy_against_gold"]

WIDE_RATIO = 6.0  # of the methods' furthest points, from which on a linear axis would hide the shorter curves


def draw_budget_curves(data: Mapping[str, Any], form: Form = "png") -> bytes:
    """Rows are scorers, columns units; lines are means over seeds of what is gained over the base.

    data: methods [..], units [..], scorers [{name, kind, prompts}], base {scorer: its mean score, which is subtracted
    from all y}, runs [{method, seed, x {unit: [..]}, y {scorer: [..]}}], means [{method, x {unit: [..]},
    y {scorer: [..]}, half {scorer: [..], of the band}}].
    """
    scorers, units, look = data["scorers"], data["units"], looks(data["methods"])
    labels = _side_labels(scorers, 2.2, data["base"])
    shape: dict[str, Any] = {"size": (3.7, 2.2), "gap": (0.25, 0.55), "left": _side(labels), "top": 0.1}
    with panels(len(scorers), len(units), **shape, legend=[BASE, *data["methods"]], look=look, sharey="row") as (
        figure,
        grid,
    ):
        for row, scorer, label in zip(grid, scorers, labels, strict=True):
            for axes, unit in zip(row, units, strict=True):
                _budget_panel(axes, data, unit, scorer["name"], look)
            row[0].set_ylabel(label)
        return saved(figure, form)


def _side_labels(scorers: Sequence[Mapping[str, Any]], height: float, base: Mapping[str, float]) -> list[str]:
    """What stands beside each row: scorer, kind, the number of prompts where it is told, and what is subtracted."""
    found = []
    for one in scorers:
        mean = f"mean of {one['prompts']:,} prompts" if "prompts" in one else "mean score"
        mean += f", minus the base's {base[one['name']]:.3g}" if one["name"] in base else ""
        found.append(f"{fitted(one['name'], height)}\n{fitted('(' + one['kind'] + '), ' + mean, height)}")
    return found


def _side(labels: Sequence[str]) -> float:
    """Inches that the labels of an axis, and the numbers beside them, need to its left."""
    return 0.61 + LINE * line_count(labels)


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
        axes.axhline(0.0, color=base.color, linestyle=base.dashes, linewidth=1.2)
    for mean in data["means"]:
        one = look[mean["method"]]
        low, high = (
            [y + sign * half for y, half in zip(mean["y"][scorer], mean["half"][scorer], strict=True)]
            for sign in (-1, 1)
        )
        # the start at 0, which a logarithmic axis cannot show, is the base's line
        kept = [at for at, x in enumerate(mean["x"][unit]) if x > 0 or not logarithmic]
        x, y, low, high = ([values[at] for at in kept] for values in (mean["x"][unit], mean["y"][scorer], low, high))
        axes.fill_between(x, low, high, color=one.color, alpha=0.15, linewidth=0)
        axes.plot(x, y, color=one.color, marker=one.marker, linestyle=one.dashes, linewidth=1.8, markersize=5)
    for run in data["runs"]:
        if run["method"] not in {mean["method"] for mean in data["means"]}:  # its seeds have other milestones each
            kept = [at for at, x in enumerate(run["x"][unit]) if x > 0 or not logarithmic]
            x, y = ([values[at] for at in kept] for values in (run["x"][unit], run["y"][scorer]))
            axes.plot(x, y, color=look[run["method"]].color, linewidth=0.9, linestyle=look[run["method"]].dashes)


def draw_guidance_grid(data: Mapping[str, Any], form: Form = "png") -> bytes:
    """Rows are scorers, columns step counts; x is the guidance scale.

    data: methods [..], scorers [{name, kind}], guidance [..], steps [..], values {scorer: {method: [[y by guidance] by
    steps]}}.
    """
    scorers, steps, look = data["scorers"], data["steps"], looks(data["methods"])
    labels = _side_labels(scorers, 2.1, {})
    shape: dict[str, Any] = {"size": (2.7, 2.1), "gap": (0.2, 0.5), "left": _side(labels), "top": 0.3}
    with panels(len(scorers), len(steps), **shape, legend=data["methods"], look=look, sharey="row", sharex=True) as (
        figure,
        grid,
    ):
        for row, scorer, label in zip(grid, scorers, labels, strict=True):
            for number, axes in enumerate(row):
                plain_axes(axes)
                for method, values in data["values"][scorer["name"]].items():
                    one = look[method]
                    style = {"color": one.color, "marker": one.marker, "linestyle": one.dashes}
                    axes.plot(data["guidance"], values[number], linewidth=1.6, markersize=5, **style)
            row[0].set_ylabel(label)
        for axes, count in zip(grid[0], steps, strict=True):
            axes.set_title(f"{count} sampling steps")
        for axes in grid[-1]:
            axes.set_xlabel("guidance scale")
            axes.set_xticks(data["guidance"], [f"{value:g}" for value in data["guidance"]])
        return saved(figure, form)


def draw_proxy_against_gold(data: Mapping[str, Any], form: Form = "png") -> bytes:
    """One panel a task: gain of the proxy over gain of gold, both in standard deviations of the base's scores.

    Arrows show which way training went: from the base, where all begin, to the end of the budget.

    data: methods [..], panels [{task, proxy, gold, paths [{method, gold [..], proxy [..]}]}].
    """
    look, shown = looks(data["methods"]), data["panels"]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    titles = [fitted(panel["task"], 3.0, 10) for panel in shown]
    below = [_gain_label(panel["gold"], "gold", 3.0) for panel in shown]
    beside = [_gain_label(panel["proxy"], "proxy", 2.8) for panel in shown]
    left, top = _side(beside), 0.13 + LINE * line_count(titles)
    gap = (left + 0.1, 0.3 + LINE * line_count(below) + top)
    shape: dict[str, Any] = {"size": (3.0, 2.8), "gap": gap, "left": left, "top": top}
    with panels(rows, columns, **shape, legend=data["methods"], look=look) as (figure, grid):
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for axes, panel, title, x, y in zip(grid.ravel(), shown, titles, below, beside, strict=False):
            plain_axes(axes)
            axes.axhline(0, color="#888888", linewidth=0.8)
            axes.axvline(0, color="#888888", linewidth=0.8)
            for path in panel["paths"]:
                one = look[path["method"]]
                style = {"color": one.color, "marker": one.marker, "linestyle": one.dashes}
                axes.plot(path["gold"], path["proxy"], linewidth=1.2, markersize=4, **style)
                _arrows(axes, path["gold"], path["proxy"], one.color)
            low, high = axes.get_xlim()
            bottom, top = axes.get_ylim()
            ends = [max(low, bottom), min(high, top)]
            axes.plot(ends, ends, color="#888888", linewidth=0.8, linestyle="--", zorder=1)
            axes.set(xlim=(low, high), ylim=(bottom, top), title=title, xlabel=x, ylabel=y)
        return saved(figure, form)


def _gain_label(scorer: str, kind: str, inches: float) -> str:
    return fitted(f"gain of {scorer} ({kind}), in standard deviations of the base", inches)


def _arrows(axes: Axes, x: Sequence[float], y: Sequence[float], color: str) -> None:
    """An arrowhead in the middle of every step along a path."""
    for number in range(len(x) - 1):
        begin, end = (x[number], y[number]), (x[number + 1], y[number + 1])
        if begin != end:
            middle = ((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2)
            style = {"arrowstyle": "-|>,head_width=0.25,head_length=0.5", "color": color, "linewidth": 0}
            axes.annotate("", xy=middle, xytext=begin, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})
