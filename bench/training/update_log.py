"""What one optimiser update logs: kept on the device while it is made, and fetched by one wait at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import Batch

Sums = dict[str, tuple[float, int]]  # by name: the sum of the values per sample, and how many there are


@dataclass(frozen=True)
class Fetched:
    """What one rank has logged: the gradient's norm, the total loss, sums, and what is wrong where a loss is NaN."""

    norm: float
    total: float
    sums: Sums
    complaint: str | None = None


class UpdateLog:
    """Values per sample by name, the losses among them, and the total loss of which the gradient is taken.

    Attributes:
        non_finite: the loss that was found not to be finite, by name.
        failed_on: the samples of that loss.
    """

    def __init__(self) -> None:
        self.non_finite: dict[str, Tensor] = {}
        self.failed_on: Batch | None = None
        self.clear()

    def clear(self) -> None:
        """Begin the next update."""
        self._values: dict[str, list[Tensor]] = {}
        self._losses: list[tuple[str, Tensor, Batch | None]] = []
        self._totals: list[Tensor] = []

    def add(self, name: str, values: Tensor) -> None:
        """Log values per sample (b,); what is told is the mean of all."""
        self._values.setdefault(name, []).append(values.detach())

    def add_loss(self, name: str, values: Tensor, batch: Batch | None) -> None:
        """Log a loss (b,), which has to be finite, of a batch."""
        self.add(name, values)
        self._losses.append((name, values.detach(), batch))

    def add_total(self, total: Tensor) -> None:
        """Add a scalar to the total loss."""
        self._totals.append(total.detach())

    def fetch(self, norm: Tensor | None = None) -> Fetched:
        """All of it, with the gradient's norm (scalar tensor): one wait for the device."""
        values = {name: torch.cat(parts).double() for name, parts in self._values.items()}
        scalars = [norm, torch.stack(self._totals).sum() if self._totals else None, *(v.sum() for v in values.values())]
        there = [s.double() for s in scalars if s is not None]
        found = iter(torch.stack(there).tolist() if there else ())
        numbers = [0.0 if s is None else next(found) for s in scalars]
        sums = {name: (total, len(values[name])) for name, total in zip(values, numbers[2:], strict=True)}
        return Fetched(numbers[0], numbers[1], sums, self._complaint(sums))

    def _complaint(self, sums: Sums) -> str | None:
        """What is wrong with the first loss that is not finite."""
        suspects = {name for name, (total, _) in sums.items() if not math.isfinite(total)}
        for name, values, batch in self._losses:
            if name in suspects and (bad := (~torch.isfinite(values)).nonzero().flatten().tolist()):
                self.non_finite, self.failed_on = {f"loss.{name}": values}, batch
                return (
                    f"loss {name!r}: expected finite values, but {len(bad)} of {len(values)} samples are NaN or "
                    f"infinite (positions {', '.join(map(str, bad[:8]))}{', ...' if len(bad) > 8 else ''})"
                )
        return None


def means(told: Sequence[Fetched]) -> dict[str, float]:
    """The means over the samples of all ranks, of which one may have logged nothing."""
    found = {}
    for name in dict.fromkeys(name for rank in told for name in rank.sums):
        total, count = map(sum, zip(*(rank.sums[name] for rank in told if name in rank.sums), strict=True))
        found[name] = total / count
    return found
