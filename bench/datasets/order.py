"""Which pictures each update sees: whole batches of one bucket, each bucket as often as its share of all pictures.

A pure function of the seed and the sample index, so that it is the same for all methods of one batch size, on any
number of processes, and after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench import rng


def turns(counts: Sequence[int], phases: np.ndarray, updates: int) -> np.ndarray:
    """The bucket (updates,) of each of the first `updates` updates; a longer order begins with every shorter one.

    A bucket of n among N pictures (`counts`) comes round every N/n updates, for the first time after a share `phases`
    in [0, 1) of that. So after any number of updates it has had as many as its share, to less than 1 + b n/N, where b
    is the number of buckets.
    """
    every = [sum(counts) / count for count in counts]
    until = updates + len(counts)  # by then at least `updates` turns are due, whatever the phases
    due = [(np.arange(int(until / step) + 1) + phase) * step for step, phase in zip(every, phases, strict=True)]
    bucket = np.repeat(np.arange(len(counts)), [len(times) for times in due])
    return bucket[np.argsort(np.concatenate(due), kind="stable")][:updates]


class Order:
    """Rows of a data set of `counts` pictures by bucket, the rows of one bucket after those of another.

    Within a bucket each epoch visits all pictures once, in an order of its own, and goes on where the bucket's last
    batch ended; in a bucket smaller than a batch, pictures repeat within the batch.
    """

    def __init__(self, seed: int, counts: Sequence[int], batch_size: int) -> None:
        self._seed = seed
        self._counts = counts
        self._batch_size = batch_size
        self._first = np.cumsum([0, *counts])
        self._phases = rng.uniform(seed, "bucket_phase", range(len(counts)))
        self._turns = np.zeros(0, np.int64)
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    def bucket(self, index: int) -> int:
        """The bucket of a sample, the same for all samples of an update."""
        update = index // self._batch_size
        if update >= len(self._turns):
            self._turns = turns(self._counts, self._phases, 2 * update + 64)
        return int(self._turns[update])

    def row(self, index: int) -> int:
        """The row of a sample."""
        bucket, (update, within) = self.bucket(index), divmod(index, self._batch_size)
        before = int(np.count_nonzero(self._turns[:update] == bucket))
        epoch, position = divmod(before * self._batch_size + within, self._counts[bucket])
        return int(self._first[bucket] + self._permutation(bucket, epoch)[position])

    def _permutation(self, bucket: int, epoch: int) -> np.ndarray:
        if self._epochs.get(bucket, (None,))[0] != epoch:
            name = f"data_order/{bucket}" if len(self._counts) > 1 else "data_order"
            self._epochs[bucket] = epoch, rng.permutation(self._seed, name, epoch, self._counts[bucket])
        return self._epochs[bucket][1]
