"""How a method's gain depends on each setting that was searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.results.figures.style import LINE, Form, Look, fitted, line_count, looks, panels, plain_axes, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_sensitivity"]

COLUMNS = 3


def draw_sensitivity(data: Mapping[str, Any], form: Form = "png") -> bytes:
    """One panel a setting: a marker a trial, by task; filled are the best of each task. The line at 0 is the base.

    data: tasks [..], unit "..", settings [{name, values [..] or null}], trials [{task, best, gain, x [a number by
    setting, logarithmic; or where `values` are listed, the place among them]}].
    """
    look, shown = looks(data["tasks"]), data["settings"]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    names = [fitted(one["name"], 2.6) for one in shown]
    label = fitted(data["unit"], 2.1)
    shape: dict[str, Any] = {
        "size": (2.7, 2.2),
        "gap": (0.25, 0.4 + LINE * line_count(names)),
        "left": 0.61 + LINE * line_count([label]),
        "top": 0.1,
    }
    with panels(rows, columns, **shape, legend=data["tasks"], look=look, sharey=True) as (figure, grid):
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for number, (axes, setting, name) in enumerate(zip(grid.ravel(), shown, names, strict=False)):
            _panel(axes, data["trials"], number, look)
            _scale(axes, setting["values"])
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


def _scale(axes: Axes, values: list[str] | None) -> None:
    """A logarithmic axis, or one of listed values at equal distances."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if values is None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_minor_formatter(NullFormatter())
        return
    axes.set_xticks(range(len(values)), [fitted(value, 2.4 / len(values)) for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
