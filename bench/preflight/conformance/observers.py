"""Looks at a run from outside, by other means than the harness's own bookkeeping."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from bench.models.policy import PipelinePolicy

_ODD_SEED = 868_135_307


@contextmanager
def record_gradients() -> Iterator[list[Tensor]]:
    """The gradient (parameters,) at every step that any optimiser of torch takes inside, as it is applied."""
    seen: list[Tensor] = []

    def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]))

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


@dataclass
class PassCount:
    """FLOPs of all that ran, text encoders apart, and the pictures that the VAE decoded."""

    flops: float = 0.0
    pictures: int = 0


@contextmanager
def count_passes(policy: PipelinePolicy) -> Iterator[PassCount]:
    """An independent count of what runs inside, complete once the block has ended."""
    count = PassCount()

    def decoded(module: torch.nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        count.pictures += len(args[0])

    handle = policy.pipeline.vae.decoder.register_forward_hook(decoded)
    try:
        # The fused attention kernels of the CPU are not in torch's table of FLOPs; the plain one is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield count
    finally:
        handle.remove()
    # Texts are encoded once and kept, as with a cache of embeddings, and so they are not charged.
    by_module = counter.get_flop_counts().items()
    texts = sum(sum(flops.values()) for name, flops in by_module if name.endswith("CLIPTextModelWithProjection"))
    count.flops = counter.get_total_flops() - texts


@contextmanager
def moved_random_states() -> Iterator[list[str]]:
    """The names of the global generators that were drawn from or seeded inside, complete once the block has ended.

    They start from states that nothing else seeds, so that seeding shows however often it was done before; afterwards
    they are as they were.
    """
    moved: list[str] = []
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 (the global one is meant)
    try:
        torch.manual_seed(_ODD_SEED)
        np.random.seed(_ODD_SEED)  # noqa: NPY002
        random.seed(_ODD_SEED)
        before = _random_states()
        yield moved
        after = _random_states()
        moved += [name for name in before if before[name] != after[name]]
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])


def _random_states() -> dict[str, str]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "numpy": repr([x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()]),  # noqa: NPY002
        "python": repr(random.getstate()),
    }
