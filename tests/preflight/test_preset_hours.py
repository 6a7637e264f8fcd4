"""The hours that presets of full-size models say in their first line are those that `bench plan` computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.config.load import PRESETS, load_settings, presets
from bench.preflight.forecast.cards import card_named
from bench.preflight.forecast.forecast import UTILISATION, forecast_experiment


def said(preset: str) -> int | None:
    """The hours in the first line of a preset; None where it says none."""
    first = (PRESETS / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()[0]
    found = re.search(r"([\d,]+) hours on one H100", first)
    return int(found[1].replace(",", "")) if found else None


TOLD = [preset for preset in presets() if said(preset) is not None]


def test_every_preset_of_a_full_size_model_says_its_hours() -> None:
    assert TOLD == ["flux2-klein-lora", "sd35-medium", "sd35-medium-lora", "sd35-medium-papers", "z-image-lora"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", TOLD)
def test_a_preset_takes_the_hours_that_it_says_and_every_method_learns(preset: str, tmp_path: Path) -> None:
    """In the first line rounded to whole hours, of more than 1,000 to tens."""
    found = forecast_experiment(load_settings(preset), tmp_path)
    plan = found.plan_for(card_named("h100"), UTILISATION)
    hours = found.seconds(plan) / 3600
    assert said(preset) == (round(hours) if hours < 1000 else round(hours, -1))
    assert all(stage.updates >= 200 for stages in plan.stages.values() for stage in stages)
