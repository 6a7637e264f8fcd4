"""The policy on a real, tiny pipeline."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors import safe_open

from bench.api import DataError
from bench.config.settings import Train
from bench.models.policy import PipelinePolicy


@pytest.fixture
def policy(tiny_pipeline):
    return PipelinePolicy.load(tiny_pipeline)


@pytest.mark.slow
def test_a_text_encodes_to_the_same_bits_in_any_company(tiny_pipeline):
    texts = [f"a photo of {n} red circle" for n in "abcdefghijk"] + ["a star", 'text reading "4"']
    together = PipelinePolicy.load(tiny_pipeline).encode(texts)
    policy = PipelinePolicy.load(tiny_pipeline)
    alone = [policy.encode([t]) for t in reversed(texts)][::-1]
    for i, one in enumerate(alone):
        assert torch.equal(together.embeds[i], one.embeds[0])
        assert torch.equal(together.pooled[i], one.pooled[0])


def test_sampling_equals_the_pipelines_own_at_the_same_schedule(policy):
    """diffusers' pipeline, told our sigmas before its own shift, takes the same Euler steps."""
    steps, guidance = 4, 3.0
    noise = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(1))
    prompts = ["a photo of a red circle", "a star"]
    ours = policy.sample(noise, policy.encode(prompts), steps=steps, guidance=guidance)
    unshifted = np.linspace(1.0, 1 / steps, steps)
    theirs = policy.pipeline(
        prompts, height=64, width=64, sigmas=list(unshifted), guidance_scale=guidance, latents=noise,
        output_type="latent", max_sequence_length=0,
    ).images  # fmt: skip
    assert torch.allclose(ours, theirs, atol=2e-5)


def test_guidance_of_one_is_the_conditional_velocity(policy):
    cond = policy.encode(["a star", "a ring"])
    x, sigma = torch.randn(2, *policy.latent_shape), torch.tensor([0.3, 0.9])
    assert torch.equal(policy.guided_velocity(x, sigma, cond, 1.0), policy.velocity(x, sigma, cond))
    v_u, v_c = policy.velocity(x, sigma, policy.null(cond)), policy.velocity(x, sigma, cond)
    assert torch.allclose(policy.guided_velocity(x, sigma, cond, 2.5), v_u + 2.5 * (v_c - v_u), atol=1e-6)


def test_decoded_pictures_are_bytes_and_encode_back_to_shape(policy):
    images = policy.decode(torch.randn(3, *policy.latent_shape))
    assert images.dtype == np.uint8 and images.shape == (3, 64, 64, 3)
    mean, std = policy.encode_pictures(images)
    assert mean.shape == std.shape == (3, *policy.latent_shape)
    assert (std > 0).all()


def test_a_prompt_too_long_is_refused_and_not_cut(policy):
    with pytest.raises(DataError, match="text encoders read 20"):
        policy.encode(["a red circle " * 20])


def test_a_folder_that_is_no_pipeline_is_named(tmp_path):
    with pytest.raises(DataError, match=r"model_index\.json"):
        PipelinePolicy.load(tmp_path)


def test_the_reference_stays_when_the_policy_moves(policy):
    cond, x, sigma = policy.encode(["a star"]), torch.randn(1, *policy.latent_shape), torch.tensor([0.5])
    before = policy.velocity(x, sigma, cond)
    frozen = policy.frozen_copy()
    parameters = policy.prepare(Train(), seed=0)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1 * torch.randn_like(p))
    assert torch.equal(frozen.velocity(x, sigma, cond), before)
    assert not torch.allclose(policy.velocity(x, sigma, cond), before)


def test_adapters_are_written_alike_each_time(policy, tmp_path):
    """The library puts what it says of them in an order that changes from file to file."""
    policy.prepare(Train(adaptation="lora", lora_rank=2), seed=3)
    policy.merge()
    written = set()
    for number in range(8):
        assert policy.save_lora(tmp_path / str(number))
        (file,) = (tmp_path / str(number)).glob("*.safetensors")
        written.add(file.read_bytes())
        with safe_open(file, "pt") as found:
            assert len(list(found.keys())) > 0 and "lora_adapter_metadata" in found.metadata()
    assert len(written) == 1


def test_lora_starts_at_the_base_and_merging_keeps_the_field(policy):
    cond, x, sigma = policy.encode(["a star"]), torch.randn(1, *policy.latent_shape), torch.tensor([0.5])
    base = copy.deepcopy(policy.transformer.state_dict())
    before = policy.velocity(x, sigma, cond)
    parameters = policy.prepare(Train(adaptation="lora", lora_rank=2), seed=3)
    assert torch.equal(policy.velocity(x, sigma, cond), before)
    assert sum(p.numel() for p in parameters) < 0.5 * sum(p.numel() for p in base.values())
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1 * torch.ones_like(p))
    reference = policy.frozen_copy()
    moved = policy.velocity(x, sigma, cond)
    assert torch.equal(reference.velocity(x, sigma, cond), before)
    policy.merge()
    assert torch.allclose(policy.velocity(x, sigma, cond), moved, atol=1e-5)
    assert policy.transformer.state_dict().keys() == base.keys()
    assert not torch.allclose(moved, before)


def test_saving_gives_a_transformer_that_diffusers_loads(policy, tmp_path):
    from diffusers import SD3Transformer2DModel

    policy.save(tmp_path / "model")
    loaded = SD3Transformer2DModel.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in policy.transformer.state_dict().items())
