"""Texts to what SD3's transformer takes: encoded by the pipeline's own encoders, each text once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.api import DataError
from bench.device import memory_told
from bench.models.encoding_cache.cached_encoder import CachedEncoder
from bench.models.encoding_cache.keys import entry_key
from bench.models.encoding_cache.store import Entry, Store

# Texts are always encoded in batches of this size: matrix products of another shape may round differently, and a run
# that meets its texts in another grouping, because it was resumed or because some of them are in the cache, has to see
# the same bits.
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
    """Encodes texts of one pipeline and keeps what it found, in the encoders' own precision.

    `length` is what T5 reads of every text, in tokens: the same in training and evaluation, because there is but one.
    `parked` encoders stay in main memory between uses; not even there where `load` can give them, in main memory, when
    they are needed.
    """

    def __init__(
        self, pipeline: Any, device: torch.device, length: int | None, *, parked: bool,
        load: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._device = device
        self._has_t5 = (pipeline.text_encoder_3 if load is None else pipeline.tokenizer_3) is not None
        self.length = length if length is not None else T5_LENGTH * self._has_t5
        self.parked = parked
        self._load = load
        self._known: CachedEncoder[str] = CachedEncoder("texts", str, self._encode)

    def keep(self, store: Store, identity: str) -> None:
        """From now on look for texts in a store, and keep there what is encoded ahead; `identity` is the encoders'."""
        encoder = f"{identity} {self._has_t5} {self.length} {TEXT_BATCH}"
        self._known = CachedEncoder("texts", lambda text: entry_key(encoder, text), self._encode, store)

    def __call__(self, texts: Sequence[str]) -> TextCondition:
        """Conditioning float32 on the device, one row for each text; each text is encoded once.

        Raises:
            DataError: a text is longer than the text encoders read; nothing is truncated silently.
            MemoryShortError: the encoders do not fit beside what is on the device.
        """
        entries = self._known(texts)
        embeds, pooled = (torch.stack([entry[name] for entry in entries]) for name in ("embeds", "pooled"))
        return TextCondition(embeds, pooled).to(self._device, torch.float32)

    def prepare(self, texts: Sequence[str]) -> None:
        """Encode now what is needed later, at one go, where the encoders are parked or a store keeps what they find.

        Raises as a call does.
        """
        if self.parked or self._known.store is not None:
            self._known.prepare(sorted(set(texts)))

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Iterator[Entry]:
        """The entries of texts in their order, the same bits whatever stands beside them."""
        self.refuse_truncation(texts)
        with (
            memory_told("encoding texts", "say --runtime.frozen_weights bfloat16, or --runtime.t5 false"),
            self._at_work(),
        ):
            for start in range(0, len(texts), TEXT_BATCH):
                chunk = list(texts[start : start + TEXT_BATCH])
                embeds, _, pooled, _ = self._pipeline.encode_prompt(
                    chunk + [""] * (TEXT_BATCH - len(chunk)), None, None, device=self._device,
                    do_classifier_free_guidance=False, max_sequence_length=self.length,
                )  # fmt: skip
                for _, e, p in zip(chunk, embeds.cpu(), pooled.cpu(), strict=False):
                    yield {"embeds": e.clone(), "pooled": p.clone()}

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The encoders on the device."""
        loaded = self._load() if self._load is not None else {}
        for name, module in loaded.items():
            setattr(self._pipeline, name, module)
        if self.parked:
            self._move(self._device)
        try:
            yield
        finally:
            for name in loaded:
                setattr(self._pipeline, name, None)
            if self.parked:
                self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for name in _ENCODERS:
            if getattr(self._pipeline, name) is not None:
                getattr(self._pipeline, name).to(device)

    def refuse_truncation(self, texts: Sequence[str]) -> None:
        """Raise DataError for a text that the encoders cannot read to its end."""
        # T5 reads on where CLIP stops, as in SD3
        tokenizer = self._pipeline.tokenizer_3 if self._has_t5 else self._pipeline.tokenizer
        limit = self.length if self._has_t5 else self._pipeline.tokenizer_max_length
        mend = "shorten it, or raise --runtime.text_length" if self._has_t5 else "shorten it"
        for text, ids in zip(texts, tokenizer(list(texts)).input_ids, strict=True):
            if len(ids) > limit:
                raise DataError(f"prompt {text!r}: {len(ids)} tokens, but the text encoders read {limit}: {mend}")
