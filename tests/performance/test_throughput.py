"""Speed of the hot paths: a table by `pytest tests/performance --benchmark-enable --dist=no`, else each runs once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import flow, rng
from bench.datasets.scenes.render import render_scenes
from bench.datasets.scenes.scene import sample_scenes
from bench.models.policy import PipelinePolicy
from rewards.scenes_geneval import ScenesGenEval


@pytest.fixture(scope="module")
def pictures():
    scenes = sample_scenes("performance", 0, 0, 128)
    return scenes, render_scenes(scenes)


def test_denoiser_forward(benchmark, tiny_pipeline):
    policy = PipelinePolicy.load(tiny_pipeline)
    x, sigma, cond = torch.randn(64, *policy.latent_shape), torch.full((64,), 0.5), policy.encode(["a star"] * 64)
    with torch.no_grad():
        v = benchmark(policy.velocity, x, sigma, cond)
    assert v.shape == x.shape


def test_rendering(benchmark, pictures):
    assert benchmark(render_scenes, pictures[0]).shape == (128, 64, 64, 3)


def test_gold_alignment_scorer(benchmark, pictures):
    scenes, images = pictures
    scorer = ScenesGenEval()
    scorer.load()
    scores = benchmark(scorer, images, [s.caption for s in scenes], [s.metadata for s in scenes])
    assert scores.mean() > 0.95


def test_keyed_noise(benchmark):
    noise = benchmark(rng.normal, 0, "z1", range(64), (16, 8, 8))
    assert noise.shape == (64, 16, 8, 8) and np.isfinite(noise).all()


def test_sde_step(benchmark):
    x, v = torch.randn(64, 16, 8, 8), torch.randn(64, 16, 8, 8)
    sigma, sigma_next = torch.full((64,), 0.5), torch.full((64,), 0.4)
    mean, std = benchmark(flow.sde_mean_std, x, v, sigma, sigma_next, 0.7, 0.9)
    assert mean.shape == x.shape and (std > 0).all()
