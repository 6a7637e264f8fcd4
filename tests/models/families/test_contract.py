"""What a family says of itself, and how it is found, without a model."""

from __future__ import annotations

import pytest

from bench.api import DataError
from bench.families import FAMILIES, REFUSED, families, family_of

FACTS = ("name", "models", "pipeline", "source", "latents", "conditioning", "time", "guidance", "schedule")


def test_every_family_is_found_by_its_pipeline_and_says_what_it_is() -> None:
    found = list(families())
    assert len({family.name for family in found}) == len(found) == 8
    for family in found:
        assert family_of(family.pipeline) is family
        assert all(getattr(family, fact) for fact in (*FACTS, "lora_targets", "encoders", "text_length"))
        assert set(family.options) <= {"attention", "compile", "shard", "t5"}
    assert {family.pipeline for family in found} <= set(FAMILIES)


@pytest.mark.parametrize("pipeline", REFUSED)
def test_what_is_no_rectified_flow_is_refused_by_name_with_its_reason(pipeline: str) -> None:
    with pytest.raises(DataError, match=f"a {pipeline} is no rectified flow: {REFUSED[pipeline][:20]}"):
        family_of(pipeline)


def test_a_pipeline_of_no_family_is_told_which_there_are() -> None:
    with pytest.raises(DataError, match=r"StableDiffusion3Pipeline, FluxPipeline, .*says that it is a MochiPipeline"):
        family_of("MochiPipeline")
