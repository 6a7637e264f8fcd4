"""How much memory the passes of a transformer hold at once, found by running them on tensors that have no values.

torch's fake tensors go through the same operations, gradient graph and autocast as real ones; every storage counts
from its creation until it is freed. Left out: what kernels take for themselves, fragmentation, what compiling saves.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.config.settings import Runtime, Train
from bench.models.autoencoder import pictures_at_once
from bench.models.conditioning import TextCondition
from bench.models.policy import SD3Policy


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all storages created inside that are still alive.

    `known` tensors were there before and do not count. `live` is now, `peak` the most since the start or `restart`.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._alive = {t.untyped_storage()._cdata: 0 for t in known}

    def restart(self) -> None:
        """Begin a new peak."""
        self.peak = self.live

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
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.live -= self._alive.pop(key)


@dataclass(frozen=True)
class Peaks:
    """Most bytes alive during a forward pass and during its backward pass; weights and gradients do not count."""

    forward: float
    backward: float

    def __add__(self, other: Peaks) -> Peaks:
        return Peaks(self.forward + other.forward, self.backward + other.backward)

    def times(self, factor: float) -> Peaks:
        """So many of them."""
        return Peaks(factor * self.forward, factor * self.backward)

    @property
    def most(self) -> float:
        """Bytes that have to be free."""
        return max(self.forward, self.backward)


@dataclass(frozen=True)
class Pass:
    """A pass of `batch` samples: latents (C, h, w), texts of `length` tokens, with or without gradient.

    `cuda`: as CUDA's autocast does it, which computes layer norms in float32 and the CPU's does not.
    """

    latent: tuple[int, int, int]
    length: int
    batch: int
    gradient: bool
    cuda: bool = True


def peaks(config: dict[str, Any], vae: Any, train: Train, runtime: Runtime, what: Pass) -> Peaks:
    """The peaks of one pass of a transformer of that configuration, from smaller ones with fewer blocks of each kind.

    Blocks of a kind are all alike, so each one more adds the same.
    """
    double = len(config.get("dual_attention_layers") or ())
    plain = config["num_layers"] - double
    # enough that the fullest moment is the same as with all: in the larger kind of block, not in the last, smaller one
    few = (min(double, 2), min(plain, 1 if double > 1 else 3))
    base = of_blocks(config, *few, vae, train, runtime, what)
    total = base
    for kind, count in enumerate((double, plain)):
        if count > few[kind]:
            more = (few[0] + (kind == 0), few[1] + (kind == 1))
            one = of_blocks(config, *more, vae, train, runtime, what) + base.times(-1)
            total += one.times(count - few[kind])
    return total


def of_blocks(
    config: dict[str, Any], double: int, plain: int, vae: Any, train: Train, runtime: Runtime, what: Pass
) -> Peaks:
    """The peaks of one pass of a transformer with so many blocks with a second attention, and so many without."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    numbers = {**config, "num_layers": double + plain, "dual_attention_layers": tuple(range(double))}
    policy = _policy(numbers, vae, train, runtime)
    policy.prepare(train, 0)
    if what.cuda and train.precision == "bfloat16":
        for module in policy.transformer.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    with FakeTensorMode():
        _place(policy.transformer)
        return run(policy, what)


def run(policy: SD3Policy, what: Pass) -> Peaks:
    """The peaks of one pass of a policy that is prepared for training, on the CPU."""
    module, config = policy.transformer, dict(policy.transformer.config)
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:  # the gradient of the micro-batches before
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    known = [*module.parameters(), *module.buffers(), *(p.grad for p in trained if p.grad is not None)]
    with LiveMemory(known) as memory, torch.set_grad_enabled(what.gradient):
        x = torch.zeros(what.batch, *what.latent)
        cond = TextCondition(
            torch.zeros(what.batch, what.length, config["joint_attention_dim"]),
            torch.zeros(what.batch, config["pooled_projection_dim"]),
        )
        v = policy.velocity(x, torch.full((what.batch,), 0.5), cond)
        forward = memory.peak
        memory.restart()
        if what.gradient:
            v.square().mean().backward()
    return Peaks(forward, memory.peak)


def _policy(numbers: dict[str, Any], vae: Any, train: Train, runtime: Runtime) -> SD3Policy:
    """A policy whose transformer has shapes but no values; whatever else it holds is of no account to its passes."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(numbers).to(getattr(torch, runtime.denoiser_weights))
    parts = SimpleNamespace(
        transformer=transformer.requires_grad_(False), vae=vae, text_encoder_3=None,
        scheduler=SimpleNamespace(config=SimpleNamespace(shift=1.0)),
    )  # fmt: skip
    return SD3Policy(parts, Runtime(), torch.device("cpu"), precision=train.precision)


def decoding(vae: Any, latent: tuple[int, int, int], held: str) -> float:
    """Most bytes alive while a VAE of that configuration, its weights held in that precision, decodes one chunk."""
    from diffusers import AutoencoderKL
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        module = AutoencoderKL.from_config(dict(vae.config)).to(getattr(torch, held)).eval()
    with FakeTensorMode(), torch.no_grad():
        _place(module)
        with LiveMemory([*module.parameters(), *module.buffers()]) as memory:
            module.decode(torch.zeros(pictures_at_once(module, latent), *latent, dtype=module.dtype))
    return memory.peak


def _place(module: Any) -> None:
    """Put tensors of the device `meta` where passes are like those of a real device; inside a FakeTensorMode."""
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None:
                held = torch.empty(p.shape, dtype=p.dtype, device="cpu")
                part._parameters[name] = torch.nn.Parameter(held, requires_grad=p.requires_grad)
        for name, b in list(part._buffers.items()):
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device="cpu")
