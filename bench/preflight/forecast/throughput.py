"""How many samples a second this machine takes through the denoiser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.config.settings import Train
from bench.models.policy import PipelinePolicy, TextCondition

SECONDS = 1.0  # of one measurement


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forward_rate(policy: PipelinePolicy, batch: int) -> float:
    """Samples per second of wall-clock time, forward passes without gradient in batches of `batch`."""
    x, sigma, cond = _inputs(policy, batch)
    with torch.no_grad():
        return batch * _repeats_per_second(lambda: policy.velocity(x, sigma, cond))


def training_rate(policy: PipelinePolicy, batch: int) -> float:
    """Samples per second, forward and backward passes through all weights. The policy is left as it was."""
    x, sigma, cond = _inputs(policy, batch)
    policy.prepare(Train(), 0)

    def step() -> None:
        policy.velocity(x, sigma, cond).square().mean().backward()
        policy.transformer.zero_grad()

    try:
        with torch.enable_grad():
            return batch * _repeats_per_second(step)
    finally:
        policy.merge()


def _inputs(policy: PipelinePolicy, batch: int) -> tuple[torch.Tensor, torch.Tensor, TextCondition]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *policy.latent_shape, generator=generator).to(policy.device)
    return x, torch.full((batch,), 0.5, device=policy.device), policy.encode([""] * batch)


def _repeats_per_second(step: Callable[[], object]) -> float:
    """Calls of `step` per second, over `SECONDS` and at least three calls, after one that warms up."""
    step()
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < SECONDS:
        step()
        count += 1
    return count / (time.perf_counter() - start)
