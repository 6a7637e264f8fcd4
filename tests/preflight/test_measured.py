"""What a plan measured is found again by the same experiment alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.config.load import load_settings
from bench.config.settings import Experiment
from bench.preflight.forecast import measured
from bench.preflight.forecast.measured import keep_measured, kept_measured
from bench.preflight.forecast.plan import measure_plan
from bench.preflight.forecast.render import render_plan

SPENT = {"sft": [{"cost": 96.0, "flops": 5e9, "seconds": 0.25, "updates": 1.0, "images": 32.0}]}


@pytest.fixture
def planned(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return load_settings("smoke", {"model": str(tiny_pipeline), "methods": ["sft"], "budget": "960"})


def test_a_kept_measurement_is_planned_with_and_nothing_is_measured(planned: Experiment, tmp_path: Path) -> None:
    assert kept_measured(planned) is None
    keep_measured(planned, 500.0, SPENT)
    plan = measure_plan(planned, tmp_path / "results")
    (stage,) = plan.stages["sft"]
    assert (plan.rate, plan.measured, stage.updates, stage.total("seconds")) == (500.0, True, 10, 2.5)
    told = " ".join(render_plan(planned, plan).split())
    assert plan.when is not None and f"measured on this machine {plan.when}, --again" in told


def test_other_settings_sources_and_bases_are_measured_anew(
    planned: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_measured(planned, 500.0, SPENT)
    assert kept_measured(planned) is not None
    assert kept_measured(replace(planned, threads=planned.threads + 1)) is None
    assert kept_measured(replace(planned, train=replace(planned.train, batch_size=7))) is None
    with monkeypatch.context() as change:
        change.setattr(measured, "_version", lambda name: f"another {name}")
        assert kept_measured(planned) is None
    index = Path(str(planned.model)) / "model_index.json"
    index.touch()
    assert kept_measured(planned) is None


def test_a_damaged_measurement_is_none(planned: Experiment, tmp_path: Path) -> None:
    keep_measured(planned, 500.0, SPENT)
    (file,) = (tmp_path / "cache" / "plans").iterdir()
    file.write_text(file.read_text()[:-9])
    assert kept_measured(planned) is None
