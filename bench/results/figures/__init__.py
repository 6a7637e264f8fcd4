"""Figures of the report: functions from plotted data (JSON-able) to PNG bytes."""

from bench.results.figures.curves import draw_budget_curves, draw_guidance_grid, draw_proxy_against_gold
from bench.results.figures.differences import draw_differences
from bench.results.figures.pictures import draw_sample_grid, split_tiles
from bench.results.figures.sensitivity import draw_sensitivity

__all__ = [
    "draw_budget_curves",
    "draw_differences",
    "draw_guidance_grid",
    "draw_proxy_against_gold",
    "draw_sample_grid",
    "draw_sensitivity",
    "split_tiles",
]
