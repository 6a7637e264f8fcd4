"""The guard over frozen weights: any single bit, of whatever part a stage leaves as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.api import Method, PluginError
from bench.datasets.worlds import load_world
from bench.preflight.conformance.fixtures import Fixtures, MethodSubject
from bench.training.frozen_check import FrozenCheck
from methods.flowgrpo import FlowGRPO
from methods.sft import SFT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_single_bit_shows(dtype: torch.dtype, bit: int) -> None:
    values = torch.arange(6).to(dtype)
    guard = FrozenCheck({"same": torch.zeros(3), "changed": values.reshape(2, 3).t()})
    guard.check("any")
    values.view(torch.uint8)[-1] ^= 1 << bit
    with pytest.raises(PluginError, match=r"method 'any' changed 1 frozen tensors, 'changed' among them"):
        guard.check("any")


@pytest.fixture(scope="module")
def fixtures(tiny_pipeline: Path) -> Fixtures:
    return Fixtures(load_world("scenes", str(tiny_pipeline)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "train", "name"),
    [
        (SFT, {}, "vae.encoder.conv_in.weight"),
        (SFT, {}, "text_encoder_2.text_projection.weight"),
        (SFT, {}, "transformer.pos_embed.pos_embed"),
        (SFT, {"adaptation": "lora"}, "transformer.transformer_blocks.0.attn.to_q.base_layer.weight"),
        (SFT, {"adaptation": "lora"}, "transformer.proj_out.weight"),
        (FlowGRPO, {}, "reference.proj_out.weight"),
    ],
)
def test_every_part_that_a_stage_leaves_as_it_is(
    fixtures: Fixtures, method: type[Method], train: dict[str, Any], name: str
) -> None:
    stage = MethodSubject(method, fixtures).stage(**train)
    frozen = stage.frozen()
    guard = FrozenCheck(frozen)
    stage.advance()
    guard.check(method.name)
    with torch.no_grad():
        frozen[name].view(-1)[-1] += 1
        try:
            with pytest.raises(PluginError, match=f"changed 1 frozen tensors, '{name}'"):
                guard.check(method.name)
        finally:
            frozen[name].view(-1)[-1] -= 1
