"""Texts as a denoiser takes them: a batch of embeddings, of one length or each with its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextCondition:
    """Text embeddings (B, L, D) float32 and, where the model takes them, pooled embeddings (B, P).

    `lengths` (B) are the rows that count of each text, where texts keep their own lengths; those behind are zeros.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    lengths: tuple[int, ...] | None = None

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> TextCondition:
        """The inverse of `named`."""
        lengths = named.get("lengths")
        return cls(named["embeds"], named.get("pooled"), None if lengths is None else tuple(lengths.tolist()))

    def named(self) -> dict[str, Tensor]:
        """What is there as tensors, by name: `embeds`, `pooled`, and `lengths` (B,) int64."""
        found = {"embeds": self.embeds}
        found |= {} if self.pooled is None else {"pooled": self.pooled}
        return found | ({} if self.lengths is None else {"lengths": torch.tensor(self.lengths, dtype=torch.int64)})

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, index: Any) -> TextCondition:
        embeds, pooled = self.embeds[index], None if self.pooled is None else self.pooled[index]
        if self.lengths is None:
            return TextCondition(embeds, pooled)
        rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        lengths = tuple(self.lengths[row] for row in rows.tolist())
        return TextCondition(embeds[:, : max(lengths, default=0)], pooled, lengths)

    @staticmethod
    def cat(parts: Sequence[TextCondition]) -> TextCondition:
        """One batch of several."""
        longest = max(part.embeds.shape[1] for part in parts)
        embeds = torch.cat([part.padded(longest).embeds for part in parts])
        pooled = [part.pooled for part in parts if part.pooled is not None]
        lengths = [length for part in parts for length in part.lengths or ()]
        return TextCondition(embeds, torch.cat(pooled) if pooled else None, tuple(lengths) if lengths else None)

    def padded(self, length: int) -> TextCondition:
        """The same with rows of zeros up to a length."""
        missing = length - self.embeds.shape[1]
        if not missing:
            return self
        assert self.lengths is not None
        zeros = self.embeds.new_zeros(len(self), missing, self.embeds.shape[2])
        return TextCondition(torch.cat([self.embeds, zeros], 1), self.pooled, self.lengths)

    def expand(self, count: int) -> TextCondition:
        """A single row repeated `count` times, without copying."""
        pooled = None if self.pooled is None else self.pooled.expand(count, -1)
        lengths = None if self.lengths is None else self.lengths * count
        return TextCondition(self.embeds.expand(count, -1, -1), pooled, lengths)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TextCondition:
        """The same on another device, in another precision."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return TextCondition(self.embeds.to(device, dtype), pooled, self.lengths)

    def mask(self) -> Tensor:
        """Which rows count, (B, L) bool on the embeddings' device."""
        places = torch.arange(self.embeds.shape[1])
        lengths = torch.tensor(self.lengths or (len(places),) * len(self))
        return (places < lengths[:, None]).to(self.embeds.device)
