"""The passes of denoisers whose weights several ranks share out: all ranks make each one together.

A pass brings the weights together block by block, so that every rank has to make it, while a rank makes by itself only
as many as its own samples take. So each pass begins with a meeting. A rank that comes to another meeting meanwhile
makes the pass along with the others, on one sample of zeros whose gradient is zero, and then meets again for what it
came for. That is charged to no budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.api import PluginError
from bench.distributed.fsdp import shard_denoiser, unshard_denoiser
from bench.distributed.launch import refuse_alone
from bench.distributed.ranks import PASS, Ranks

Idle = Callable[[bool], Tensor]

_NUMBER = "bench.distributed.number"
_THROUGH = "bench.distributed.through"


@dataclass(frozen=True)
class Forward:
    """A forward pass of the `denoiser`-th denoiser, with gradient or without, and `through` to the state or not."""

    denoiser: int
    gradient: bool
    through: bool


@dataclass(frozen=True)
class Backward:
    """The backward pass through forward passes, which are numbered from 1."""

    passes: tuple[int, ...]


class ShardedPasses:
    """The denoisers of one cell whose weights its ranks share out.

    `idle(through)` of a denoiser is a forward pass of one sample that is thrown away; `through`: its state wants a
    gradient.

    Raises:
        ConfigError: there is one rank only.
    """

    def __init__(self, ranks: Ranks) -> None:
        refuse_alone(True, ranks.size)
        self._ranks = ranks
        self._denoisers: dict[int, tuple[Any, Idle]] = {}
        self._shared = 0
        self._made = 0
        self._along: dict[int, Tensor] = {}
        ranks.companion = self

    def shard(self, transformer: Any, device: torch.device, idle: Idle) -> None:
        """Leave each rank its part of a denoiser's weights, on its device."""
        shard_denoiser(transformer, device)
        self._denoisers[self._shared] = transformer, idle
        self._shared += 1

    def unshard(self, transformer: Any, where: torch.device | str) -> Any:
        """A denoiser of its own with the whole weights, frozen, in `where`; the other one has done its work."""
        self._ranks.all_gather_object("whole weights", None)
        self._denoisers = {i: known for i, known in self._denoisers.items() if known[0] is not transformer}
        return unshard_denoiser(transformer, where)

    def forward(self, transformer: Any, x: Tensor, run: Callable[[], Tensor]) -> Tensor:
        """What `run` gives: a forward pass of a denoiser at the state `x`, together with the other ranks.

        Raises:
            PluginError: another rank came for another pass.
        """
        known = [i for i, (denoiser, _) in self._denoisers.items() if denoiser is transformer]
        if not known:
            return run()
        trains = any(p.requires_grad for p in transformer.parameters())
        gradient = torch.is_grad_enabled() and (trains or x.requires_grad)
        step = Forward(known[0], gradient, gradient and x.requires_grad)
        self._ranks.all_gather_object(PASS, step)
        return self._forward(step, run)

    def backward(self, total: Tensor) -> None:
        """The backward pass from a scalar, together with the other ranks; raises as `forward` does."""
        passes = _passes_under(total)
        if passes:
            self._ranks.all_gather_object(PASS, Backward(tuple(passes)))
        with self._ranks.guard_pass():
            total.backward()

    def join_pass(self, step: Forward | Backward) -> None:
        """Make along a pass that other ranks need.

        Raises:
            PluginError: they want the gradient of a pass that this rank made for itself, and not at the same time.
        """
        if isinstance(step, Forward):
            _, idle = self._denoisers[step.denoiser]
            with torch.set_grad_enabled(step.gradient):
                v = self._forward(step, lambda: idle(step.through))
            if step.gradient:
                self._along[self._made] = v
            return
        if any(number not in self._along for number in step.passes):
            raise PluginError(
                "the processes went different ways: one has left out the backward pass of a forward pass that another "
                "takes; with --shard, call env.backward alike on every process, as often as there are micro-batches"
            )
        ends = [self._along.pop(number) for number in step.passes]
        with self._ranks.guard_pass():
            torch.autograd.backward(ends, [torch.zeros_like(v) for v in ends])

    def forget_graphs(self) -> None:
        """No backward pass is to come of any forward pass so far."""
        self._along.clear()

    def _forward(self, step: Forward, run: Callable[[], Tensor]) -> Tensor:
        with self._ranks.guard_pass():
            v = run()
        if step.gradient:
            self._made += 1
            assert v.grad_fn is not None
            _marks(v.grad_fn).update({_NUMBER: self._made, _THROUGH: step.through})
        return v


def _passes_under(total: Tensor) -> list[int]:
    """Numbers of the forward passes that a gradient of this scalar goes back through, the latest first."""
    found, seen, waiting = set[int](), set[Any](), [total.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        marks = _marks(node)
        if _NUMBER in marks:
            found.add(marks[_NUMBER])
            if not marks[_THROUGH]:
                continue  # nothing but the denoiser's weights lies behind it
        waiting += [behind for behind, _ in node.next_functions]
    return sorted(found, reverse=True)


def _marks(node: Any) -> dict[str, Any]:
    """What can be noted on a node of the graph, and lives as long as it does."""
    return node.metadata
