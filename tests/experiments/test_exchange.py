"""Results in plain diffusers: all weights and LoRA; and what LoRA must not lose on its way."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from torch import Tensor

from bench.config.settings import Runtime, Train
from bench.datasets.worlds import load_world
from bench.models.policy import PipelinePolicy
from bench.registry import ROOT
from tests.support.documents import blocks

PAGE = "docs/how-to/diffusers.md"
STEPS, GUIDANCE = 3, 3.0
PROMPTS = ["a red circle", "two blue squares"]
BASE = load_world("scenes").model


def trained(train: Train, runtime: Runtime | None = None, size: float = 0.02) -> PipelinePolicy:
    """The embedded base, its trained weights moved at random, its stage ended."""
    policy = PipelinePolicy.load(BASE, runtime=runtime, device="cpu", precision=train.precision)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in policy.prepare(train, 0):
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return policy


def noise(policy: PipelinePolicy) -> Tensor:
    return torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(1))


def in_diffusers(pipeline: StableDiffusion3Pipeline, z1: Tensor) -> tuple[Tensor, np.ndarray]:
    """Latents and pictures of plain diffusers, told the harness's noise levels, which it shifts itself, once."""
    arguments = {
        "prompt": PROMPTS, "height": 64, "width": 64, "sigmas": list(np.linspace(1, 1 / STEPS, STEPS)),
        "guidance_scale": GUIDANCE, "latents": z1, "max_sequence_length": 0,
    }  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments, output_type="latent").images, pipeline(**arguments, output_type="np").images


def base(**parts: object) -> StableDiffusion3Pipeline:
    arguments = {"dtype": torch.float32, "text_encoder_3": None, "tokenizer_3": None}
    return StableDiffusion3Pipeline.from_pretrained(BASE, **arguments, **parts)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_result_draws_the_same_pictures_in_plain_diffusers(adaptation: str, tmp_path: Path) -> None:
    """Latents to 1e-5 of the largest, the same sums rounded in another order; pictures to one level of 255."""
    policy = trained(Train(adaptation=adaptation, lora_rank=4, lora_alpha=8))
    policy.merge()
    policy.save(tmp_path / "model")
    z1 = noise(policy)
    ours = policy.sample(z1, policy.encode(PROMPTS), steps=STEPS, guidance=GUIDANCE)

    found = [base(transformer=SD3Transformer2DModel.from_pretrained(tmp_path / "model"))]
    assert policy.save_lora(tmp_path / "lora") == (adaptation == "lora")
    if adaptation == "lora":
        found.append(base())
        found[-1].load_lora_weights(tmp_path / "lora")
    untrained = in_diffusers(base(), z1)[0]
    assert (ours - untrained).abs().max() > 0.1
    for pipeline in found:
        latents, pictures = in_diffusers(pipeline, z1)
        torch.testing.assert_close(latents, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))
        assert np.abs(pictures * 255 - policy.decode(ours)).max() <= 1


@pytest.mark.slow
def test_the_lines_of_the_page_load_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and in one precision: it draws what the harness draws from it."""
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.py").write_text(blocks("python", page=PAGE)[0].text)
    pipe = runpy.run_path("lines.py")["pipe"]
    assert Image.open("circle.png").size == (64, 64)
    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)} == {
        torch.float32
    }
    policy = PipelinePolicy.load(BASE, device="cpu")
    z1 = noise(policy)
    ours = policy.sample(z1, policy.encode(PROMPTS), steps=STEPS, guidance=GUIDANCE)
    latents, _ = in_diffusers(pipe, z1)
    torch.testing.assert_close(latents, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("line", [0, 1], ids=["all weights", "adapters"])
def test_the_lines_of_the_page_load_a_result_into_a_pipeline_in_bfloat16(line: int, tmp_path: Path) -> None:
    policy = trained(Train(adaptation="lora", lora_rank=4, lora_alpha=8), size=0.1)
    policy.merge()
    policy.save(tmp_path / "checkpoint" / "model")
    policy.save_lora(tmp_path / "checkpoint" / "lora")
    (block,) = (found for found in blocks("python", page=PAGE) if found.first.startswith("pipe.transformer = "))
    (tmp_path / "line.py").write_text(block.text.splitlines()[line])
    z1 = noise(policy).bfloat16()
    pipe = base().to(torch.bfloat16)
    untrained, _ = in_diffusers(pipe, z1)
    runpy.run_path(str(tmp_path / "line.py"), {"pipe": pipe, "cell": tmp_path})
    assert pipe.transformer.dtype == torch.bfloat16
    latents, _ = in_diffusers(pipe, z1)
    ours = policy.sample(z1.float(), policy.encode(PROMPTS), steps=STEPS, guidance=GUIDANCE)
    assert (latents - ours).norm() < 0.1 * (untrained - ours).norm()  # what is left is bfloat16's rounding


def test_folding_adapters_into_bfloat16_weights_loses_none_of_a_small_update() -> None:
    """Weights of .1 are rounded by 2e-4 in bfloat16; what is left of an update has to be there to 1e-8 all the same."""
    half = Runtime(denoiser_weights="bfloat16")
    policy = trained(Train(adaptation="lora", precision="bfloat16", lora_rank=4), half, size=1e-4)
    assert {p.dtype for p in policy.transformer.parameters() if p.requires_grad} == {torch.float32}
    layer = policy.transformer.transformer_blocks[0].attn.to_q
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer.weight.float() + 64 / 4 * b @ a
    assert (expected.bfloat16() - expected).abs().max() > 1e-4
    policy.merge()
    torch.testing.assert_close(policy.transformer.transformer_blocks[0].attn.to_q.weight, expected, rtol=0, atol=1e-8)
