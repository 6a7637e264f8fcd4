"""Bytes of the tensors that a pass holds at once, found by running it on tensors that have no values.

torch's fake tensors go through the same operations, gradient graph and autocast as real ones, and have the same sizes
on every processor. Left out, because it differs between processors and libraries: the scratch memory of kernels,
fragmentation, and what compiling saves.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.config.settings import Train
from bench.models.autoencoder import pictures_at_once
from bench.models.families.family import Family
from bench.models.policy import PipelinePolicy
from bench.preflight.forecast.shapes import ModelShapes


class LiveTensorBytes(TorchDispatchMode):
    """Counts the bytes of all storages created inside that are still alive; `peak` is the most so far.

    `known` tensors were there before and do not count.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._alive = {t.untyped_storage()._cdata: 0 for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it made."""
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, list | tuple) else (out,):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self._live += storage.nbytes()
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self._live -= self._alive.pop(key)


def pass_bytes(shapes: ModelShapes, train: Train, batch: int, *, gradient: bool, cuda: bool = True) -> int:
    """Most bytes of tensors in a pass of `batch` samples, with its backward pass where it has a gradient.

    Weights and gradients do not count. `cuda`: as CUDA's autocast does it, which computes layer norms in float32 and
    the CPU's does not.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    policy, latent = shapes.prepared_policy(train, "cpu"), shapes.latent
    if cuda and train.precision == "bfloat16":
        for module in policy.transformer.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    with FakeTensorMode():
        _place_on_cpu(policy.transformer)
        return run_pass(policy, latent, batch, gradient=gradient)


def run_pass(policy: PipelinePolicy, latent: tuple[int, int, int], batch: int, *, gradient: bool) -> int:
    """Run a pass of a prepared policy on the CPU; most bytes of tensors at once, as `pass_bytes` counts them.

    Latents are (C, h, w), texts as long as the policy reads any.
    """
    module = policy.transformer
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:  # the gradient of the micro-batches before
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    known = [*module.parameters(), *module.buffers(), *(p.grad for p in trained if p.grad is not None)]
    with LiveTensorBytes(known) as tensors, torch.set_grad_enabled(gradient):
        cond = policy.family.blank(batch, policy.texts.length)
        v = policy.velocity(torch.zeros(batch, *latent), torch.full((batch,), 0.5), cond)
        if gradient:
            v.square().mean().backward()
    return tensors.peak


def decoding_bytes(family: Family, latent: tuple[int, int, int], held: str) -> int:
    """Most bytes of tensors while the VAE, its weights held in that precision, decodes one chunk of pictures."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        module: Any = type(family.parts.vae).from_config(dict(family.parts.vae.config)).to(getattr(torch, held)).eval()
    with FakeTensorMode(), torch.no_grad():
        _place_on_cpu(module)
        with LiveTensorBytes([*module.parameters(), *module.buffers()]) as tensors:
            family.decode(module, torch.zeros(pictures_at_once(family, latent), *latent))
    return tensors.peak


def _place_on_cpu(module: Any) -> None:
    """Put tensors of the device `meta` where passes are like those of a real device; inside a FakeTensorMode."""

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(one) for one in value]
        if not isinstance(value, Tensor) or value.device.type != "meta":
            return value
        new = torch.empty(value.shape, dtype=value.dtype, device="cpu")
        return torch.nn.Parameter(new, value.requires_grad) if isinstance(value, torch.nn.Parameter) else new

    for part in module.modules():
        for table in (part._parameters, part._buffers, vars(part)):  # rotary tables are plain attributes at times
            for name, value in list(table.items()):
                if isinstance(value, Tensor | list):
                    table[name] = placed(value)
