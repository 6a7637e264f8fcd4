"""A plan of the embedded base is computed from the FLOPs that were counted when it was exported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.config.load import load_settings
from bench.datasets.scenes.manifest import ASSETS
from bench.models.embedded_flops import read_flops
from bench.preflight.forecast.computed import computed_spending
from bench.preflight.forecast.plan import _measure_methods, measure_plan
from bench.preflight.forecast.render import render_plan
from pretrain.export import count_flops


@pytest.mark.slow
def test_the_stored_flops_are_those_of_the_models() -> None:
    """Where the embedded models have changed: `python -m pretrain --stage export` counts anew."""
    assert read_flops() == count_flops(ASSETS / "pipeline")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["alignment", "aesthetic"])
def test_updates_spend_what_a_trial_of_them_spends(task: str) -> None:
    small = {"flowgrpo.num_groups": 2, "flowgrpo.num_generations": 4, "soar.num_points": 2}
    planned = load_settings("smoke", {"tasks": [task], "methods": ["sft", "soar", "flowgrpo"], **small})
    computed = computed_spending(planned, 100.0)
    assert computed is not None
    for label, (measured,) in _measure_methods(planned)[0][1].items():
        (amounts,) = computed[label]
        for unit in ("cost", "flops", "updates", "images"):
            assert amounts[unit] == pytest.approx(measured[unit], rel=1e-9), (label, unit)
        assert amounts["seconds"] == amounts["cost"] / 100.0


def test_other_bases_rewards_and_adapters_are_not_computed(tiny_pipeline: Path) -> None:
    planned = load_settings("smoke", {"methods": ["sft"]})
    (task,) = planned.tasks
    assert computed_spending(planned, 100.0) is not None
    assert computed_spending(replace(planned, model=str(tiny_pipeline)), 100.0) is None
    assert computed_spending(replace(planned, tasks=(replace(task, reward="jpeg"),)), 100.0) is None
    assert computed_spending(load_settings("smoke", {"train.adaptation": "lora"}), 100.0) is None


def test_a_computed_plan_says_that_nothing_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    planned = load_settings("smoke", {"methods": ["sft"], "budget": "960"})
    plan = measure_plan(planned, tmp_path / "results")
    (stage,) = plan.stages["sft"]
    assert not plan.measured
    assert stage.total("seconds") == pytest.approx(stage.total("cost") / 1000, rel=1e-12)
    told = " ".join(render_plan(planned, plan).split())
    assert "documented for the embedded base: --again measures here" in told
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_no_model_library_is_imported_for_it() -> None:
    code = (
        "import sys; from bench.preflight.forecast import computed; "
        "print([m for m in ('diffusers', 'transformers', 'peft', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
