"""Memory of a card among several that share out weights, gradients and optimiser's state (`bench.distributed`)."""

from __future__ import annotations

from bench.preflight.forecast.memory import Memory, Parts
from bench.preflight.forecast.shapes import Shapes

_SHARED = {
    "denoiser",
    "base, for drift",
    "reference",
    "moving average",
    "AdamW's moments",
    "gradients",
    "a step of AdamW",
}
# At once, at most: a block's weights, two buffers they come in, the gradient, two buffers in which it leaves.
# Source: foreach_all_gather and foreach_reduce of torch.distributed.fsdp.
_BLOCKS_FORWARD, _BLOCKS_BACKWARD = 3, 6


def shared(memory: Memory, shapes: Shapes, cards: int) -> Memory:
    """What of a stage's memory is on each of `cards` cards, and what is there in whole for a while."""
    blocks = shapes.pipeline.transformer.transformer_blocks
    largest = max(sum(p.nbytes for p in block.parameters()) for block in blocks)
    phases = {name: _divided(parts, cards) for name, parts in memory.phases.items()}
    for parts in phases.values():
        if "activations" in parts or "a sampling pass" in parts:
            times = _BLOCKS_BACKWARD if "activations" in parts else _BLOCKS_FORWARD
            parts["blocks, put together"] = times * largest
    phases["sharing out"] = {"the rest of the denoiser": memory.resident["denoiser"] * (1 - 1 / cards)}
    return Memory(_divided(memory.resident, cards), phases)


def _divided(parts: Parts, cards: int) -> Parts:
    return {name: size / cards if name in _SHARED else size for name, size in parts.items()}
