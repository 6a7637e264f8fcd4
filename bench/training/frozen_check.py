"""Weights that training must leave as they are: a plugin runs in this process and could reach them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.api import PluginError

_AS_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


class FrozenCheck:
    """Remembers a checksum of each tensor; any single changed value shows."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self._sums = {name: _checksum(t) for name, t in tensors.items()}

    def check(self, method: str) -> None:
        """Compare with now.

        Raises:
            PluginError: a tensor has changed; the first one is named.
        """
        changed = [name for name, t in self._tensors.items() if _checksum(t) != self._sums[name]]
        if changed:
            raise PluginError(
                f"method {method!r} changed {len(changed)} frozen tensors, {changed[0]!r} among them: expected it to "
                "change only what env.update() trains; its results would not be comparable. Mend the method: no "
                "in-place operation on the model's own tensors"
            )


def _checksum(tensor: Tensor) -> int:
    """Sum of the bits of all values, read as integers: quick on every device, and exact."""
    bits = tensor.detach().contiguous().flatten().view(_AS_INTEGER[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64))
