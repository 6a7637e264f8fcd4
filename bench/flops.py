"""FLOPs of the passes that a budget is charged for, counted without arithmetic: on tensors that have no data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.conditioning import TextCondition


@dataclass(frozen=True)
class PassFlops:
    """Measured FLOPs of one sample: denoiser forward, its backward to all trained weights, the same where gradient goes
    on into the state, the reference's forward (without adapters), VAE decoding."""

    forward: float
    backward: float
    backward_through: float
    reference: float
    decode: float


def count(transformer: Any, vae: Any, latent: tuple[int, ...], cond: TextCondition) -> PassFlops:
    """The FLOPs of one sample, with the trained weights as they are set up now.

    `latent` is (C, h, w); `cond` one row of text embeddings. What gradient checkpointing computes again is not counted:
    it saves memory and is no part of a method.
    """
    denoiser, decoder = _shadow(transformer), _shadow(vae)
    denoiser.disable_gradient_checkpointing()
    x, inputs = torch.empty(1, *latent, device="meta"), cond.to("meta")

    def velocity(x: Tensor) -> Tensor:
        return denoiser(
            hidden_states=x, timestep=torch.empty(1, device="meta"), encoder_hidden_states=inputs.embeds,
            pooled_projections=inputs.pooled, return_dict=False,
        )[0]  # fmt: skip

    # Not every fused attention kernel is in torch's table of FLOPs; the plain one is.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.enable_grad():
            v = velocity(x)
        backward = _backward(v) if v.requires_grad else 0
        with torch.enable_grad():
            through = _backward(velocity(x.clone().requires_grad_()))
        if getattr(denoiser, "_hf_peft_config_loaded", False):
            denoiser.disable_adapters()
        with FlopCounterMode(display=False) as reference, torch.no_grad():
            velocity(x)
        with FlopCounterMode(display=False) as decode, torch.no_grad():
            decoder.decode(x)
    counts = (forward.get_total_flops(), backward, through, reference.get_total_flops(), decode.get_total_flops())
    return PassFlops(*map(float, counts))


def _backward(v: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        v.sum().backward()
    return counter.get_total_flops()


def _shadow(module: Any) -> Any:
    """A copy of the module, adapters and all, whose weights have shapes but no values."""
    memo: dict[int, object] = {}
    for p in module.parameters():
        empty = torch.empty_like(p, device="meta", dtype=torch.float32)
        memo[id(p)] = torch.nn.Parameter(empty, requires_grad=p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(module, memo)
