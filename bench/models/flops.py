"""FLOPs of the passes that a budget is charged for, counted on a copy of the model."""

from __future__ import annotations

import copy
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.models.text_condition import TextCondition

if TYPE_CHECKING:
    from bench.models.families.family import Family


@dataclass(frozen=True)
class PassFlops:
    """Measured FLOPs of one sample: denoiser forward, its backward to all trained weights, the same where gradient goes
    on into the state, the reference's forward (without adapters), VAE decoding and its backward to the latent."""

    forward: float
    backward: float
    backward_through: float
    reference: float
    decode: float
    decode_backward: float = 0.0

    def times(self, factor: int) -> PassFlops:
        """Those of so many samples."""
        return PassFlops(*(factor * flops for flops in astuple(self)))


def count(
    family: Family, transformer: Any, latent: tuple[int, ...], cond: TextCondition, device: str | None = None
) -> PassFlops:
    """The FLOPs of one sample, with the trained weights as they are set up now.

    `latent` is (C, h, w); `cond` one row of text embeddings. What gradient checkpointing computes again is not counted:
    it saves memory and is no part of a method. `device`: `cpu` runs the passes, as for models that lie there; `meta`
    only looks at shapes, as for all others: small models are run in less time, large ones take no memory.
    """
    from bench.models import kernels  # which imports diffusers, as forecasts of known passes need not

    device = device or ("cpu" if transformer.device.type == "cpu" else "meta")
    denoiser, decoder = (_stand_in(part, device) for part in (transformer, family.parts.vae))
    decoder.requires_grad_(False)
    denoiser.disable_gradient_checkpointing()
    kernels.choose_attention(denoiser, "auto", family)
    x, inputs = torch.zeros(1, *latent, device=device), cond.to(device)

    def velocity(x: Tensor) -> Tensor:
        return family.velocity(denoiser, x, torch.zeros(1, device=device), inputs)

    # Not every fused attention kernel is in torch's table of FLOPs; the plain one is.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.enable_grad():
            v = velocity(x)
        backward = _backward(v) if v.requires_grad else 0
        with torch.enable_grad():
            through = _backward(velocity(x.clone().requires_grad_()))
        reference = forward
        if getattr(denoiser, "_hf_peft_config_loaded", False):
            denoiser.disable_adapters()
            with FlopCounterMode(display=False) as reference, torch.no_grad():
                velocity(x)
        with FlopCounterMode(display=False) as decode, torch.enable_grad():
            picture = family.decode(decoder, x.clone().requires_grad_())
        picture_backward = _backward(picture)
    counts = (
        forward.get_total_flops(), backward, through, reference.get_total_flops(), decode.get_total_flops(),
        picture_backward,
    )  # fmt: skip
    return PassFlops(*map(float, counts))


def count_encoding(family: Family, latent: tuple[int, ...], device: str | None = None) -> float:
    """The FLOPs of encoding one picture whose latent has the shape (C, h, w); `device` as in `count`."""
    vae = family.parts.vae
    device = device or ("cpu" if vae.device.type == "cpu" else "meta")
    height, width = (side * family.pixels for side in latent[1:])
    picture = torch.zeros(1, 3, height, width, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        family.encode(_stand_in(vae, device), picture)
    return float(counter.get_total_flops())


def _backward(v: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        v.sum().backward()
    return counter.get_total_flops()


def _stand_in(module: Any, device: str) -> Any:
    """A float32 copy of the module, adapters and all; on the device `meta` its weights have shapes but no values."""
    memo: dict[int, object] = {}
    if device == "meta":
        for p in module.parameters():
            memo[id(p)] = torch.nn.Parameter(torch.empty_like(p, device=device), requires_grad=p.requires_grad)
        for b in module.buffers():
            memo[id(b)] = torch.empty_like(b, device=device)
    return copy.deepcopy(module, memo).float()
