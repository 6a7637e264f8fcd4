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

    `lengths` (B,) int64, in main memory, are the rows that count of each text, where texts keep their own lengths;
    those behind are zeros.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    lengths: Tensor | None = None

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> TextCondition:
        """The inverse of `named`."""
        lengths = named.get("lengths")
        return cls(named["embeds"], named.get("pooled"), None if lengths is None else lengths.cpu())

    def named(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, index: Any) -> TextCondition:
        pooled = None if self.pooled is None else self.pooled[index]
        if self.lengths is None:
            return TextCondition(self.embeds[index], pooled)
        lengths = self.lengths[index.cpu() if isinstance(index, Tensor) else index]
        longest = int(lengths.max()) if len(lengths) else 0
        return TextCondition(self.embeds[index][:, :longest], pooled, lengths)

    @staticmethod
    def cat(parts: Sequence[TextCondition]) -> TextCondition:
        """One batch of several."""
        longest = max(part.embeds.shape[1] for part in parts)
        named = [part.padded(longest).named() for part in parts]
        return TextCondition(**{name: torch.cat([one[name] for one in named]) for name in named[0]})

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
        return TextCondition(**{name: t.expand(count, *t.shape[1:]) for name, t in self.named().items()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TextCondition:
        """The same on another device, in another precision."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return TextCondition(self.embeds.to(device, dtype), pooled, self.lengths)

    def mask(self) -> Tensor:
        """Which rows count, (B, L) bool on the embeddings' device."""
        places = torch.arange(self.embeds.shape[1])
        lengths = torch.full((len(self),), len(places)) if self.lengths is None else self.lengths
        return (places < lengths[:, None]).to(self.embeds.device)
