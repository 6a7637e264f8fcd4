"""One look for all figures: Okabe and Ito's colours, and a marker and a dash pattern for readers without colours.

Figures are bytes of PNG or SVG, the same for the same data and library versions. matplotlib is imported when one is
drawn. Nothing is cut off: texts break where they are longer than their place (`fitted`), and the canvas holds whatever
reaches over its edge (`saved`).
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.results.records.schema import BASE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "UNIT_TITLES",
    "Form",
    "Look",
    "fitted",
    "line_count",
    "looks",
    "new_figure",
    "panels",
    "plain_axes",
    "saved",
    "short_number",
]

Form = Literal["png", "svg"]
LINE = 0.17  # inches of one line of text

UNIT_TITLES = {
    "cost": "cost (forward-equivalents)",
    "whole_cost": "cost, with filter and encodings",
    "flops": "floating point operations",
    "seconds": "training time (seconds)",
    "updates": "optimiser updates",
    "images": "pictures generated in training",
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of one method, in all figures."""

    color: str
    marker: str
    dashes: Any


# Source: Okabe and Ito, Color Universal Design (2008). Their yellow is left out: it vanishes on white.
_OF_BASE = Look("#000000", "D", (0, (1, 1)))
_IN_ORDER = (
    Look("#0072B2", "o", "-"),
    Look("#D55E00", "s", (0, (6, 2))),
    Look("#009E73", "^", (0, (3, 1, 1, 1))),
    Look("#CC79A7", "v", (0, (8, 2, 2, 2))),
    Look("#E69F00", "P", (0, (2, 2))),
    Look("#56B4E9", "X", (0, (10, 3))),
    Look("#000000", "*", (0, (4, 1, 1, 1, 1, 1))),
    Look("#0072B2", "<", (0, (6, 2))),
    Look("#D55E00", ">", "-"),
    Look("#009E73", "h", (0, (2, 2))),
    Look("#CC79A7", "p", "-"),
)


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look for the base, always the same, and one for every method by its place in the list."""
    trained = [method for method in methods if method != BASE]
    return {BASE: _OF_BASE} | {method: _IN_ORDER[n % len(_IN_ORDER)] for n, method in enumerate(trained)}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A matplotlib figure of this size in inches, with the house's settings and without any global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
        "svg.hashsalt": "bench",
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield Figure(figsize=(width, height), dpi=110)


@contextmanager
def panels(
    rows: int,
    columns: int,
    size: tuple[float, float],
    gap: tuple[float, float],
    left: float,
    top: float,
    legend: Sequence[str] = (),
    look: Mapping[str, Look] | None = None,
    **shared: Any,
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure and its axes (rows, columns): panels of `size` (width, height), all measures in inches.

    legend: methods to name above all panels, with their looks, in as many lines as they need.

    gap: between panels (horizontal, vertical); up to half an inch stays free below the last row too, for labels.
    Fixed measures draw in half the time of matplotlib's layout engines.
    """
    width = left + columns * size[0] + (columns - 1) * gap[0] + 0.15
    bottom, fitting = min(gap[1], 0.5), 1
    if legend and look:
        named = {name: fitted(name, width - 0.9) for name in legend}
        longest = max(len(line) for text in named.values() for line in text.split("\n"))
        fitting = max(1, int(width / (0.75 + 0.085 * longest)))
        rows_of_legend = -(-len(legend) // fitting)
        top += 0.05 + (0.03 + LINE * line_count(named.values())) * rows_of_legend
    height = top + rows * size[1] + (rows - 1) * gap[1] + bottom
    with new_figure(width, height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, **shared)
        figure.subplots_adjust(
            left=left / width,
            right=1 - 0.15 / width,
            top=1 - top / height,
            bottom=bottom / height,
            wspace=gap[0] / size[0],
            hspace=gap[1] / size[1],
        )
        if legend and look:
            _draw_legend(figure, named, look, -(-len(legend) // rows_of_legend))
        yield figure, grid


def saved(figure: Figure, form: Form) -> bytes:
    """The picture without a date or a version in it, on a canvas that holds all of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    unsaid = dict.fromkeys(["Software"] if form == "png" else ["Date", "Creator"])
    # measured here, because matplotlib's own "tight" draws the whole figure once more for it
    whole = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()).padded(0.08)
    figure.savefig(buffer, format=form, metadata=unsaid, facecolor="white", bbox_inches=whole)
    return buffer.getvalue()


def fitted(text: str, inches: float, points: float = 9) -> str:
    """A text in lines of at most this width; words break where they alone are longer."""
    wide = max(6, int(inches / (0.0092 * points)))
    return "\n".join(textwrap.wrap(text, wide)) or text


def line_count(texts: Iterable[str]) -> int:
    """Lines of the highest of some texts."""
    return max((text.count("\n") + 1 for text in texts), default=1)


def plain_axes(axes: Axes) -> None:
    """A light grid behind the data, and few ticks."""
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=6)


def short_number(value: float, _position: Any = None) -> str:
    """`1500` as `1.5k`, `60000` as `60k`, 2e15 as `2e+15`: labels of an axis of amounts."""
    if 1000 <= abs(value) < 1e6:
        return f"{value / 1000:g}k"
    return f"{value / 1e6:g}M" if 1e6 <= abs(value) < 1e9 else f"{value:g}"


def _draw_legend(figure: Figure, named: Mapping[str, str], look: Mapping[str, Look], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=look[name].color, marker=look[name].marker, linestyle=look[name].dashes, label=text, lw=1.8
        )
        for name, text in named.items()
    ]
    figure.legend(handles=handles, loc="upper center", ncols=columns, frameon=False, handlelength=3.0)
