"""Texts to what a denoiser takes: encoded by the pipeline's own encoders, each text once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from bench.device import memory_told
from bench.models.encoding_cache.cached_encoder import CachedEncoder
from bench.models.encoding_cache.keys import entry_key
from bench.models.encoding_cache.store import Entry, Store
from bench.models.families.family import Family
from bench.models.text_condition import TextCondition
from bench.readable import readable


class TextEncoding:
    """Encodes texts of one pipeline and keeps what it found, in the encoders' own precision.

    `length` is the tokens that are read of every text: the same in training and evaluation, because there is but one.
    `parked` encoders stay in main memory between uses; not even there where `load` can give them, in main memory, when
    they are needed.
    """

    def __init__(
        self, family: Family, device: torch.device, length: int | None, *, parked: bool,
        load: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self._family = family
        self._device = device
        self.length = family.length_of(length)
        self.parked = parked
        self._load = load
        self._known: CachedEncoder[str] = CachedEncoder("texts", str, self._encode)

    def keep(self, store: Store, identity: str) -> None:
        """From now on look for texts in a store, and keep there what is encoded ahead; `identity` is the encoders'."""
        encoder = f"{identity} {self._family.encoding} {self.length} {self._family.text_batch}"
        self._known = CachedEncoder(
            "texts", lambda text: entry_key(encoder, *self._readable([text])), self._encode, store
        )

    def __call__(self, texts: Sequence[str]) -> TextCondition:
        """Conditioning float32 on the device, one row for each text; each text is encoded once.

        Raises:
            DataError: a text is longer than the text encoders read; nothing is truncated silently.
            MemoryShortError: the encoders do not fit beside what is on the device.
        """
        return self._stacked(self._known(texts)).to(self._device, torch.float32)

    def _stacked(self, entries: Sequence[Entry]) -> TextCondition:
        """One batch of entries, with their lengths where each has its own."""
        pooled = torch.stack([e["pooled"] for e in entries]) if "pooled" in entries[0] else None
        embeds = [entry["embeds"] for entry in entries]
        if not self._family.ragged:
            return TextCondition(torch.stack(embeds), pooled)
        lengths = tuple(len(rows) for rows in embeds)
        return TextCondition(torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True), pooled, lengths)

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
        texts = self._readable(texts)
        batch, less = self._family.text_batch, ", or --runtime.t5 false" * ("t5" in self._family.options)
        with (
            memory_told("encoding texts", f"say --runtime.frozen_weights bfloat16{less}"),
            self._at_work(),
        ):
            # Always in batches of one size: matrix products of another shape may round differently, and a run that
            # meets its texts in another grouping, because it was resumed or some are in the cache, has to see the same
            for start in range(0, len(texts), batch):
                chunk = list(texts[start : start + batch])
                padded = chunk + [""] * (batch - len(chunk))
                for _, entry in zip(chunk, self._family.encode_texts(padded, self.length, self._device), strict=False):
                    yield entry

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The encoders on the device."""
        loaded = self._load() if self._load is not None else {}
        for name, module in loaded.items():
            setattr(self._family.parts, name, module)
        if self.parked:
            self._move(self._device)
        try:
            yield
        finally:
            for name in loaded:
                setattr(self._family.parts, name, None)
            if self.parked:
                self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for name in self._family.encoders:
            if getattr(self._family.parts, name) is not None:
                getattr(self._family.parts, name).to(device)

    def refuse_truncation(self, texts: Sequence[str]) -> None:
        """Raise DataError for a text that the encoders cannot read to its end."""
        self._family.refuse_truncation(self._readable(texts), self.length)

    def _readable(self, texts: Sequence[str]) -> list[str]:
        """The texts as they are tokenised."""
        return readable(getattr(self._family.parts, "tokenizer", None), texts)
