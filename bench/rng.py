"""Named random streams keyed by the global sample index.

Every number is a pure function of (seed, name, index): never of rank, micro-batch, call order or earlier draws. So a
resumed run, two processes and another batch order all see the same noise, and there is no generator state to store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def stream_key(seed: int, name: str) -> int:
    """A 64-bit key of (seed, name)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")


def generator(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """The counter-based generator (Philox) of one named draw of one sample."""
    return np.random.Generator(np.random.Philox(key=np.array([stream_key(seed, name), index], dtype=np.uint64)))


def normal(seed: int, name: str, index: Iterable[int], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal (len(index), *shape) float32."""
    return np.stack([generator(seed, name, int(i)).standard_normal(shape, dtype=np.float32) for i in index])


def uniform(seed: int, name: str, index: Iterable[int]) -> np.ndarray:
    """Uniform on [0, 1) (len(index),) float64."""
    return np.array([generator(seed, name, int(i)).random() for i in index])


def permutation(seed: int, name: str, epoch: int, count: int) -> np.ndarray:
    """The order (count,) int64 in which epoch `epoch` visits `count` items."""
    return generator(seed, name, epoch).permutation(count)
