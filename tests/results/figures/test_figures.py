"""Every figure with one, two and eight methods and with extreme names: nothing is cut off, no texts meet."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from PIL import Image

from bench.results.figures import (
    curves,
    differences,
    draw_budget_curves,
    draw_differences,
    draw_guidance_grid,
    draw_proxy_against_gold,
    draw_sample_grid,
    draw_sensitivity,
    pictures,
    sensitivity,
)
from bench.results.figures.style import Form

LONG = "a method with a name of many words that nobody would choose but somebody will"
WORD = "Wolkenkratzerbaumeisterlehrlingsversammlung" * 2
NAMES = {
    "plain": ["sft", "soar", "flowgrpo", "a+b", "c", "d", "e", "f"],
    "long": [f"{LONG} {number}" for number in range(8)],
    "word": [f"{WORD}{number}" for number in range(8)],
    "markup": [f"$x_{{{number}}}$ <script>&amp; %d \\alpha  #" for number in range(8)],
}
Draw = Callable[[list[str]], bytes]


def scorers(name: str) -> list[dict[str, str]]:
    return [{"name": name, "kind": "gold"}, {"name": name + "-proxy", "kind": "proxy, used in training"}]


def rising(number: int, count: int = 4) -> list[float]:
    return [0.1 * number + 0.05 * step for step in range(count)]


def budget_curves(names: list[str], form: Form = "png") -> bytes:
    judges = scorers(names[0])
    x = {"cost": [0.0, 5e3, 1e4, 1.6e4], "updates": [0.0, 20.0, 40.0, 60.0]}
    runs = [
        {"method": m, "seed": s, "x": x, "y": {j["name"]: rising(n + s) for j in judges}}
        for (n, m), s in itertools.product(enumerate(names), range(2))
    ]
    half = {j["name"]: [0.0, 0.01, 0.02, 0.02] for j in judges}
    means = [
        {"method": m, "x": x, "y": {j["name"]: rising(n) for j in judges}, "half": half} for n, m in enumerate(names)
    ]
    base = {j["name"]: 0.1 for j in judges}
    data = {"methods": names, "units": list(x), "scorers": judges, "base": base, "runs": runs, "means": means}
    return draw_budget_curves(data, form)


def guidance_grid(names: list[str], form: Form = "png") -> bytes:
    judges = scorers(names[0])
    values = {j["name"]: {m: [rising(n, 3), rising(n, 3)] for n, m in enumerate(names)} for j in judges}
    data = {"methods": names, "scorers": judges, "guidance": [1.0, 3.0, 4.5], "steps": [5, 10], "values": values}
    return draw_guidance_grid(data, form)


def proxy_against_gold(names: list[str], form: Form = "png") -> bytes:
    paths = [{"method": m, "gold": rising(n), "proxy": rising(n)[::-1]} for n, m in enumerate(names)]
    panel = {"task": names[0], "proxy": names[0] + "-proxy", "gold": names[0], "paths": paths}
    return draw_proxy_against_gold({"methods": names, "panels": [panel] * 4}, form)


def of_differences(names: list[str], form: Form = "png") -> bytes:
    points = [
        {"method": m, "verdict": "undecided (one seed)", "few": True, "mean": 0.1 * n, "low": -0.2, "high": 0.1 * n + 1}
        for n, m in enumerate(names)
    ]
    one = {"margin": 0.05, "better": "right", "points": points}
    panels = [{**one, "scorer": names[0], "kind": "proxy, used in training"}] * 3
    return draw_differences({"methods": names, "baseline": names[0], "panels": panels}, form)


def sample_grid(names: list[str], form: Form = "png") -> bytes:
    tiles = {name: [np.zeros((8, 8, 3), np.uint8)] * 2 for name in names}
    return draw_sample_grid({"columns": names, "captions": [names[0], "a red star"]}, tiles, form)


def of_sensitivity(names: list[str], form: Form = "png") -> bytes:
    ranges: list[dict[str, Any]] = [{"name": names[0], "range": [1.23e-5, 4.56e-3], "values": []}] * 2
    settings = [*ranges, {"name": names[0], "range": None, "values": ["1", "10", "null"]}, *ranges[:1]]
    trials = [
        {"task": task, "best": place == n, "gain": gain, "x": [1e-4, 4e-3, place % 3, 2e-5]}
        for n, task in enumerate(names)
        for place, gain in enumerate(rising(n))
    ]
    unit = "mean gain over the base, in margins"
    return draw_sensitivity({"tasks": names, "unit": unit, "settings": settings, "trials": trials}, form)


ALL = (budget_curves, guidance_grid, proxy_against_gold, of_differences, sample_grid, of_sensitivity)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that are saved meanwhile, as they were drawn."""
    seen: list[Figure] = []

    for module in (curves, differences, pictures, sensitivity):
        real = module.saved

        def spy(figure: Figure, form: Form, real: Any = real) -> bytes:
            seen.append(figure)
            return real(figure, form)

        monkeypatch.setattr(module, "saved", spy)
    yield seen
    monkeypatch.undo()


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """The visible texts with where they stand."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, found = canvas.get_renderer(), []
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in hidden and not isinstance(text, Annotation):
            box = text.get_window_extent(renderer)
            if box.width and box.height:
                found.append((text.get_text(), box))
    return found


def meeting(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie on each other by more than a pixel's breadth."""
    found = []
    for (a, one), (b, other) in itertools.combinations(boxes(figure), 2):
        both = Bbox.intersection(one, other)
        if both is not None and both.width > 1.5 and both.height > 1.5:
            found.append((a, b))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_nothing_is_cut_off_and_no_texts_meet(
    monkeypatch: pytest.MonkeyPatch, draw: Draw, kind: str, count: int
) -> None:
    with watched(monkeypatch) as seen:
        png = draw(NAMES[kind][:count])
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    edge = np.concatenate([pixels[:3].ravel(), pixels[-3:].ravel(), pixels[:, :3].ravel(), pixels[:, -3:].ravel()])
    assert edge.min() == 255, "something reaches the edge of the canvas"
    assert pixels.shape[1] < 1600, "wider than a page can show"
    assert meeting(seen[0]) == []
