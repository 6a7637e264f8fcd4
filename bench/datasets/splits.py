"""Splits of prompts: the hash of a text decides which split may use it, so that no text is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TypeVar

from bench.api import ConfigError

T = TypeVar("T")

SPLITS = ("train", "tune", "report", "held_out")
# Of generated prompts: of ten buckets; what is shown decides the bucket, whatever the seed.
GENERATED_SPLITS = {"train": range(0, 8), "tune": range(8, 9), "report": range(9, 10)}


def text_bucket(text: str) -> int:
    """Which of ten buckets a caption belongs to, by the hash of its words."""
    return hashlib.blake2b(same_words(text).encode(), digest_size=4).digest()[0] % 10


def same_words(text: str) -> str:
    """A caption as it is compared with others: letter case and the width of spaces do not count."""
    return " ".join(text.lower().split())


def in_generated_split(shown: str, split: str) -> bool:
    """Whether what a generated prompt shows belongs to a split.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in GENERATED_SPLITS:
        raise ConfigError(f"split {split!r}: expected one of {', '.join(GENERATED_SPLITS)}")
    return hashlib.blake2b(shown.encode(), digest_size=8).digest()[0] % 10 in GENERATED_SPLITS[split]


def round_robin(streams: list[Iterator[T]]) -> Iterator[T]:
    """One of each stream in turn; those that have ended drop out."""
    while streams:
        for stream in list(streams):
            try:
                yield next(stream)
            except StopIteration:
                streams.remove(stream)
