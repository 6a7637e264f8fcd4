"""Differences to a baseline with their intervals and the margin within which a difference is a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.results.figures.style import LINE, Form, Look, fitted, line_count, looks, panels, plain_axes, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_differences"]

WIDE = 2.9  # inches of a panel


def draw_differences(data: Mapping[str, Any], form: Form = "png") -> bytes:
    """One panel a scorer, one line a method; the grey band is the margin.

    data: methods [..], baseline, panels [{scorer, kind, margin, better, points [{method, mean, low, high,
    verdict, few}]}];
    low and high are null where there is no interval; better: `right` or `left`.
    """
    shown, look = data["panels"], looks(data["methods"])
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    labels = [[_label(point) for point in panel["points"]] for panel in shown]
    titles = [fitted(f"{panel['scorer']} ({panel['kind']})", WIDE + 0.6, 10) for panel in shown]
    below = [fitted(f"score minus {data['baseline']}; better is {panel['better']}", WIDE, 8) for panel in shown]
    side = 0.2 + 0.075 * max(len(line) for panel in labels for label in panel for line in label.split("\n"))
    top = 0.13 + LINE * line_count(titles)
    each = 0.13 + LINE * line_count(label for panel in labels for label in panel)
    size = (WIDE, each * max(map(len, labels)) + 0.2)
    gap = (max(side, 0.5) + 0.1, top + 0.33 + LINE * line_count(below))
    with panels(rows, columns, size=size, gap=gap, left=side, top=top) as (figure, grid):
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for axes, panel, names, title, x in zip(grid.ravel(), shown, labels, titles, below, strict=False):
            _panel(axes, panel, names, look)
            axes.set_title(title)
            axes.set_xlabel(x, fontsize=8)
        return saved(figure, form)


def _panel(axes: Axes, panel: Mapping[str, Any], names: Sequence[str], look: Mapping[str, Look]) -> None:
    plain_axes(axes)
    if panel["margin"] is not None:
        axes.axvspan(-panel["margin"], panel["margin"], color="#e4e4e4", zorder=0, linewidth=0)
    axes.axvline(0, color="#444444", linewidth=0.9)
    points = panel["points"]
    for height, point in enumerate(points):
        one = look[point["method"]]
        if point["low"] is not None:
            axes.plot([point["low"], point["high"]], [height, height], color=one.color, linewidth=2.2)
        face = one.color if point["verdict"] in ("better", "worse") else "white"
        axes.plot(point["mean"], height, marker=one.marker, color=one.color, markerfacecolor=face, markersize=7)
    axes.set_yticks(range(len(points)), names)
    axes.set_ylim(len(points) - 0.5, -0.5)


def _label(point: Mapping[str, Any]) -> str:
    return fitted(f"{point['method']}{' †' if point['few'] else ''}: {point['verdict']}", 2.8)
