"""Shares the weights of a denoiser out over ranks, and puts them together again."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from diffusers.models.transformers import SD3Transformer2DModel
from torch.distributed.device_mesh import init_device_mesh

from bench.distributed.dtensors import full_tensor


def shard_denoiser(transformer: Any, device: torch.device) -> None:
    """Leave this rank its part of every weight, on its device.

    A block's weights come together when it runs, and go again. Gradients of all ranks are added up, not averaged, block
    by block in the backward pass. Weights stay float32, and autocast does in each block what it does with whole ones.

    Source: FSDP2, torch.distributed.fsdp.fully_shard.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # At rest all is shared out, the few weights outside the blocks too: what is looked at then is what is trained
    for module in (*transformer.transformer_blocks, transformer):
        part = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it adds up


@torch.no_grad()
def unshard_denoiser(transformer: Any, where: torch.device | str) -> SD3Transformer2DModel:
    """A denoiser of its own with the whole weights, frozen, in `where`; all ranks have to ask for it at once."""
    with torch.device("meta"):
        plain = SD3Transformer2DModel.from_config(dict(transformer.config))
    state = {name: full_tensor(t).to(where, copy=True) for name, t in transformer.state_dict().items()}
    plain.load_state_dict(state, assign=True)
    return plain.requires_grad_(False).eval()
