"""Tensors of which each rank holds a part: as a whole again, one's own part of a whole, and the norm of all parts.

A part is torch's DTensor, split along its first dimension. Plain tensors pass through as they are, so that one code
serves weights that are shared out and weights that are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether ranks share this tensor out."""
    return isinstance(tensor, DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor, put together from the parts; every rank has to ask for it at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; one rank may hold nothing of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, wherever it lies, what belongs beside `like`: on its device, shared out as it is."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def gradient_norm(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """The norm of all gradients, over all parts, as a scalar."""
    return full_tensor(torch.nn.utils.get_total_norm(_gradients(parameters)))


@torch.no_grad()
def clip_gradients(parameters: Sequence[torch.nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale the gradients so that their norm, over all parts, is `largest` at most; `norm` is what it is now."""
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)


def _gradients(parameters: Iterable[torch.nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
