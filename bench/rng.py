"""Named random streams keyed by the global sample index.

Every number is a pure function of (seed, name, index): never of rank, micro-batch, call order or earlier draws. So a
resumed run, two processes and another batch order all see the same noise, and there is no generator state to store.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator

import numpy as np


def stream_key(seed: int, name: str) -> int:
    """A 64-bit key of (seed, name)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")


def generator(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """The counter-based generator (Philox) of one named draw of one sample."""
    return np.random.Generator(np.random.Philox(key=np.array([stream_key(seed, name), index], dtype=np.uint64)))


def _generators(seed: int, name: str, index: Iterable[int]) -> Iterator[np.random.Generator]:
    """The generator of each sample in turn: one object, whose key is set anew, for making one takes a draw's time."""
    bits = np.random.Philox(key=np.array([stream_key(seed, name), 0], dtype=np.uint64))
    state, one = bits.state, np.random.Generator(bits)
    for i in index:
        state["state"]["key"][1] = i
        bits.state = state
        yield one


def normal(seed: int, name: str, index: Iterable[int], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal (len(index), *shape) float32."""
    index = list(index)
    out = np.empty((len(index), *shape), np.float32)
    for row, one in zip(out.reshape(len(index), math.prod(shape)), _generators(seed, name, index), strict=True):
        one.standard_normal(out=row, dtype=np.float32)
    return out


def uniform(seed: int, name: str, index: Iterable[int]) -> np.ndarray:
    """Uniform on [0, 1) (len(index),) float64."""
    return np.array([one.random() for one in _generators(seed, name, index)])


def permutation(seed: int, name: str, epoch: int, count: int) -> np.ndarray:
    """The order (count,) int64 in which epoch `epoch` visits `count` items."""
    return generator(seed, name, epoch).permutation(count)
