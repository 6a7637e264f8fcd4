"""Which split a generated prompt belongs to, by its hash, so that splits stay disjoint; and their order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TypeVar

from bench.api import ConfigError

T = TypeVar("T")

# Of ten buckets; what is shown decides the bucket, whatever the seed.
SPLITS = {"train": range(0, 8), "tune": range(8, 9), "report": range(9, 10)}


def in_split(shown: str, split: str) -> bool:
    """Whether what a prompt shows belongs to a split.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    return hashlib.blake2b(shown.encode(), digest_size=8).digest()[0] % 10 in SPLITS[split]


def shuffled(size: int, seed: int, name: str) -> Iterator[int]:
    """The numbers below `size`, each once, in an order that depends on seed and name."""
    from bench import rng

    return map(int, rng.permutation(seed, name, 0, size))


def first_rank_first(streams: list[Iterator[T]]) -> Iterator[T]:
    """One of each stream in turn; those that have ended drop out."""
    while streams:
        for stream in list(streams):
            try:
                yield next(stream)
            except StopIteration:
                streams.remove(stream)
