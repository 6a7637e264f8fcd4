"""Differences to a baseline with their intervals and the margin within which a difference is a tie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.results.figures.style import Look, looks, panels, plain_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_differences"]


def draw_differences(data: Mapping[str, Any]) -> bytes:
    """One panel a scorer, one line a method; the grey band is the margin.

    data: methods [..], baseline, panels [{scorer, kind, margin, better, points [{method, mean, low, high,
    verdict, few}]}];
    low and high are null where there is no interval; better: `right` or `left`.
    """
    shown, look = data["panels"], looks(data["methods"])
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    lines = max(len(panel["points"]) for panel in shown)
    words = max(len(_label(point)) for panel in shown for point in panel["points"])
    side = 0.2 + 0.075 * words
    shape: dict[str, Any] = {"size": (2.9, 0.3 * lines + 0.2), "gap": (side + 0.1, 0.8), "left": side, "top": 0.3}
    with panels(rows, columns, **shape) as (figure, grid):
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.ravel(), shown, strict=False):
            _panel(axes, panel, data["baseline"], look)
        return to_png(figure)


def _panel(axes: Axes, panel: Mapping[str, Any], baseline: str, look: Mapping[str, Look]) -> None:
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
    axes.set_yticks(range(len(points)), [_label(point) for point in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set_title(f"{panel['scorer']} ({panel['kind']})")
    axes.set_xlabel(f"difference to {baseline}; better is {panel['better']}", fontsize=8)


def _label(point: Mapping[str, Any]) -> str:
    return f"{point['method']}{' †' if point['few'] else ''}: {point['verdict']}"
