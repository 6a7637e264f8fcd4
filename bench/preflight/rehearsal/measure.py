"""Times, memory and utilisation of what runs on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench.config.settings import Train
from bench.device import memory_told
from bench.models.policy import PipelinePolicy

_SIDE = {"cuda": 8192, "cpu": 128}  # of the matrices whose product is the peak
_REPEATS = 10
_PRODUCTS = {"cuda": 100, "cpu": 1}  # in one reading: some tenths of a second, in which a GPU's clock settles
_SHOWN = 12  # kernels of a profile


@dataclass
class DeviceReading:
    """Seconds of wall-clock time, and the most memory that torch held on the device meanwhile, in GiB (CUDA only)."""

    seconds: float = 0.0
    gib: float | None = None


@contextmanager
def read_device(device: torch.device) -> Iterator[DeviceReading]:
    """Measures the block, complete once it has ended and the device has nothing left to do."""
    found = DeviceReading()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    yield found
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        found.gib = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    found.seconds = time.perf_counter() - start


def median_seconds(device: torch.device, step: Callable[[], object]) -> tuple[float, float | None]:
    """The median time of a call of `step`, after two that warm up, and the most memory held, in GiB."""
    step(), step()
    readings = []
    for _ in range(_REPEATS):
        with read_device(device) as one:
            step()
        readings.append(one)
    return statistics.median(r.seconds for r in readings), readings[-1].gib


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of a large bfloat16 matrix product of random numbers: the peak that utilisation is a share of."""
    side, products = _SIDE[device.type], _PRODUCTS[device.type]
    a, b, product = torch.randn(3, side, side, device=device, dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(products):
            torch.mm(a, b, out=product)

    return products * 2 * side**3 / median_seconds(device, multiply)[0]


def measure_passes(policy: PipelinePolicy, train: Train, peak: float) -> dict[str, Any]:
    """Forward passes, and forward with backward passes, of one micro-batch: samples/s, TFLOP/s, share of the peak.

    FLOPs are those of the passes themselves; what gradient checkpointing computes again counts for nothing.

    Raises:
        MemoryShortError: the micro-batch does not fit.
    """
    size = train.micro_batch
    x = torch.randn(size, *policy.latent_shape, generator=torch.Generator().manual_seed(0)).to(policy.device)
    sigma, cond = torch.full((size,), 0.5, device=policy.device), policy.encode([""] * size)
    policy.prepare(train, 0)
    flops = policy.measure_flops()

    @torch.no_grad()
    def forward() -> None:
        policy.velocity(x, sigma, cond)

    def training() -> None:
        loss = policy.velocity(x, sigma, cond).square().mean()
        with memory_told("the backward pass", "lower --train.micro_batch"):
            loss.backward()
        policy.transformer.zero_grad(set_to_none=True)

    found: dict[str, Any] = {}
    for name, step, amount in (
        ("forward", forward, flops.forward),
        ("training", training, flops.forward + flops.backward),
    ):
        seconds, gib = median_seconds(policy.device, step)
        rate = size * amount / seconds
        found[name] = {
            "seconds": seconds, "samples_per_second": size / seconds, "tflops": rate / 1e12, "utilisation": rate / peak,
            "gib": gib,
        }  # fmt: skip
    found["profile"] = profile_kernels(policy.device, training)
    return found


def profile_kernels(device: torch.device, step: Callable[[], object]) -> list[dict[str, Any]]:
    """What takes most of the device's time in a call of `step`: kernel (on the CPU operator), share of it, calls."""
    cuda = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
    with torch.profiler.profile(activities=kinds) as profiler:
        step()
        if cuda:
            torch.cuda.synchronize(device)
    # An operator's row has the time of the kernels that it started, which have rows of their own
    side = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    attribute = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = [row for row in profiler.key_averages() if row.device_type == side and not row.is_user_annotation]
    rows.sort(key=lambda row: -getattr(row, attribute))
    total = sum(getattr(row, attribute) for row in rows) or 1
    return [
        {"kernel": row.key[:120], "share": round(getattr(row, attribute) / total, 4), "calls": row.count}
        for row in rows[:_SHOWN]
    ]
