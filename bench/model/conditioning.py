"""Texts to what SD3's transformer takes: encoded by the pipeline's own encoders, each text once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.api import DataError
from bench.model.device import memory_told

# Texts are always encoded in batches of this size: matrix products of another shape may round differently, and a
# resumed run, which meets its texts in another grouping, has to see the same bits.
TEXT_BATCH = 32
T5_LENGTH = 256  # of diffusers' SD3 pipeline
_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class TextCondition:
    """Text embeddings (B, L, D) and pooled embeddings (B, P), float32, as SD3's transformer takes them."""

    embeds: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, index: Any) -> TextCondition:
        return TextCondition(self.embeds[index], self.pooled[index])

    @staticmethod
    def cat(parts: Sequence[TextCondition]) -> TextCondition:
        """One batch of several."""
        return TextCondition(torch.cat([p.embeds for p in parts]), torch.cat([p.pooled for p in parts]))

    def expand(self, count: int) -> TextCondition:
        """A single row repeated `count` times, without copying."""
        return TextCondition(self.embeds.expand(count, -1, -1), self.pooled.expand(count, -1))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TextCondition:
        """The same on another device, in another precision."""
        return TextCondition(self.embeds.to(device, dtype), self.pooled.to(device, dtype))


class TextEncoding:
    """Encodes texts of one pipeline and keeps what it found, in main memory and in the encoders' own precision.

    `length` is what T5 reads of every text, in tokens: the same in training and evaluation, because there is but one.
    `parked` encoders stay in main memory between uses.
    """

    def __init__(self, pipeline: Any, device: torch.device, length: int | None, *, parked: bool) -> None:
        self._pipeline = pipeline
        self._device = device
        self._has_t5 = pipeline.text_encoder_3 is not None
        self.length = length if length is not None else T5_LENGTH * self._has_t5
        self.parked = parked
        self._known: dict[str, TextCondition] = {}

    def __call__(self, texts: Sequence[str]) -> TextCondition:
        """Conditioning float32 on the device, one row for each text; raises as `remember` does."""
        self.remember(texts)
        return TextCondition.cat([self._known[t] for t in texts]).to(self._device, torch.float32)

    def prepare(self, texts: Sequence[str]) -> None:
        """Where the encoders are parked, encode now what is needed later, at one go; raises as `remember` does."""
        if self.parked:
            self.remember(texts)

    @torch.no_grad()
    def remember(self, texts: Sequence[str]) -> None:
        """Encode what is not known yet.

        Raises:
            DataError: a text is longer than the text encoders read; nothing is truncated silently.
            MemoryShortError: the encoders do not fit beside what is on the device.
        """
        missing = sorted({t for t in texts if t not in self._known})
        if not missing:
            return
        self._refuse_truncation(missing)
        with (
            memory_told("encoding texts", "say --runtime.frozen_weights bfloat16, or --runtime.t5 false"),
            self._at_work(),
        ):
            for start in range(0, len(missing), TEXT_BATCH):
                self._encode(missing[start : start + TEXT_BATCH])

    def _encode(self, chunk: list[str]) -> None:
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            chunk + [""] * (TEXT_BATCH - len(chunk)), None, None, device=self._device,
            do_classifier_free_guidance=False, max_sequence_length=self.length,
        )  # fmt: skip
        for text, e, p in zip(chunk, embeds.cpu(), pooled.cpu(), strict=False):
            self._known[text] = TextCondition(e[None].clone(), p[None].clone())

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The encoders on the device."""
        if self.parked:
            self._move(self._device)
        try:
            yield
        finally:
            if self.parked:
                self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for name in _ENCODERS:
            if getattr(self._pipeline, name) is not None:
                getattr(self._pipeline, name).to(device)

    def _refuse_truncation(self, texts: Sequence[str]) -> None:
        # T5 reads on where CLIP stops, as in SD3
        tokenizer = self._pipeline.tokenizer_3 if self._has_t5 else self._pipeline.tokenizer
        limit = self.length if self._has_t5 else self._pipeline.tokenizer_max_length
        mend = "shorten it, or raise --runtime.text_length" if self._has_t5 else "shorten it"
        for text, ids in zip(texts, tokenizer(list(texts)).input_ids, strict=True):
            if len(ids) > limit:
                raise DataError(f"prompt {text!r}: {len(ids)} tokens, but the text encoders read {limit}: {mend}")
