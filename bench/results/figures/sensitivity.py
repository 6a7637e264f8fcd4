"""How a method's gain depends on each setting that was searched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.results.figures.style import LINE, Form, Look, fitted, line_count, looks, panels, plain_axes, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_sensitivity"]

COLUMNS = 3


def draw_sensitivity(data: Mapping[str, Any], form: Form = "png") -> bytes:
    """One panel a setting: a marker a trial, by task; filled are the best of each task. The line at 0 is the base.

    data: tasks [..], unit "..", settings [{name, range [low, high] or null, values [..]}], trials [{task, best, gain,
    x [by setting: a number within its range, or the place of one of its values]}].
    """
    look, shown = looks(data["tasks"]), data["settings"]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    names = [fitted(one["name"], 2.6) for one in shown]
    ticks = [_ticks(one) for one in shown]
    label = fitted(data["unit"], 2.1)
    below = line_count(names) + line_count(text for _, texts in ticks for text in texts)
    shape: dict[str, Any] = {
        "size": (2.7, 2.2),
        "gap": (0.25, 0.3 + LINE * below),
        "left": 0.61 + LINE * line_count([label]),
        "top": 0.1,
    }
    with panels(rows, columns, **shape, legend=data["tasks"], look=look, sharey=True) as (figure, grid):
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for number, (axes, setting, name) in enumerate(zip(grid.ravel(), shown, names, strict=False)):
            _panel(axes, data["trials"], number, look)
            _scale(axes, setting["range"], *ticks[number])
            axes.set_xlabel(name)
            axes.tick_params(labelleft=number % columns == 0)
        for row in grid:
            row[0].set_ylabel(label)
        return saved(figure, form)


def _panel(axes: Axes, trials: list[dict[str, Any]], number: int, look: Mapping[str, Look]) -> None:
    plain_axes(axes)
    axes.axhline(0, color="#444444", linewidth=0.9)
    for trial in trials:
        one = look[trial["task"]]
        face = one.color if trial["best"] else "none"
        axes.plot(
            trial["x"][number],
            trial["gain"],
            marker=one.marker,
            color=one.color,
            markerfacecolor=face,
            markersize=6,
            linestyle="none",
        )


def _ticks(setting: Mapping[str, Any]) -> tuple[list[float], list[str]]:
    """Both ends of a range and its middle; or the place of each listed value."""
    if setting["range"] is not None:
        low, high = setting["range"]
        places = [low, math.sqrt(low * high), high]
        return places, [f"{place:.3g}" for place in places]
    values = setting["values"]
    return list(range(len(values))), [fitted(value, 2.4 / len(values)) for value in values]


def _scale(axes: Axes, ends: Sequence[float] | None, places: list[float], texts: list[str]) -> None:
    """A logarithmic axis over a range, or one of listed values at equal distances."""
    from matplotlib.ticker import NullFormatter

    if ends is not None:
        low, high = ends
        spare = (high / low) ** 0.1
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / spare, high * spare)
    else:
        axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xticks(places, texts)
