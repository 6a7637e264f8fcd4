"""The figure of curves: minus the base, with bands between seeds, with and without what the data took once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from bench.results.records.reader import read_experiment
from bench.results.report.curves import curves_figure
from bench.results.statistics.analysis import Analysis
from tests.results.test_report import SMALL
from tests.support.synthetic_results import write_world

UNITS = ("cost", "whole_cost", "updates")


def test_curves_are_minus_the_base_with_bands_between_seeds(tmp_path: Path) -> None:
    world = replace(SMALL, seeds=3, methods=("sft",), grid=((), ()), once=(1200.0, 300.0))
    analysis = Analysis(read_experiment(write_world(tmp_path, world)))
    figure = curves_figure(analysis, "alignment", UNITS)
    assert figure is not None and "What the data took once: sft 1,500." in figure.caption
    assert "on the 24 prompts that all milestones share" in figure.caption
    (mean,) = figure.data["means"]
    samples = analysis.experiment.samples.query("split == 'report' and prompt_index < 24")
    base = samples.query("method == 'base'")["scenes-clip"].astype(float).mean()
    for number, update in enumerate((156, 312, 468, 625), 1):
        of = samples[(samples["method"] == "sft") & (samples["update"] == update)]
        seeds = of.groupby("seed")["scenes-clip"].apply(lambda one: one.astype(float).mean()).to_numpy()
        assert mean["y"]["scenes-clip"][number] == pytest.approx(seeds.mean() - base, abs=1e-6)
        half = student.ppf(0.975, 2) * seeds.std(ddof=1) / np.sqrt(3)
        assert mean["half"]["scenes-clip"][number] == pytest.approx(half, rel=1e-4)
    assert mean["y"]["scenes-clip"][0] == mean["half"]["scenes-clip"][0] == 0
    cost, whole = (np.array(mean["x"][unit]) for unit in UNITS[:2])
    np.testing.assert_allclose(whole - cost, 1500.0)
    assert figure.draw("png")[:4] == b"\x89PNG"


def test_without_prices_there_is_no_axis_of_the_whole_cost(tmp_path: Path) -> None:
    world = replace(SMALL, methods=("sft",), seeds=1, grid=((), ()))
    figure = curves_figure(Analysis(read_experiment(write_world(tmp_path, world))), "alignment", UNITS)
    assert figure is not None and figure.data["units"] == ["cost", "updates"]
    assert "took once" not in figure.caption and set(figure.data["means"][0]["half"]["scenes-clip"]) == {0.0}
