"""The supervised data of a stage: latent moments with captions, whole or in aspect buckets, and its order by update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from bench import rng
from bench.api import DataError

# Mean and std (n, *S) float32 of some rows
Moments = Callable[[np.ndarray], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Dataset:
    """Curated pictures as the VAE's posterior, with captions and metadata.

    `moments` gives mean and std (n, *S) float32 of some rows: moments rather than one draw, so that sampling the VAE
    stays random. `selected_by` names the scorer that chose the pictures, `scored` how many candidates it looked at.
    `more` are the captions of each row beside the one in `prompts`; empty where no row has any. `rejected` are the
    moments of the pictures that were rejected for these, where the rows are pairs.
    """

    moments: Moments
    prompts: Sequence[str]
    metadata: Sequence[Mapping[str, Any]]
    selected_by: str
    scored: int
    more: Sequence[Sequence[str]] = ()
    rejected: Moments | None = None

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.metadata) or not self.prompts:
            raise DataError(
                f"dataset: expected metadata for every caption, one at least, got {len(self.prompts)} captions and "
                f"{len(self.metadata)} of metadata"
            )

    @classmethod
    def in_memory(
        cls, mean: Tensor, std: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]],
        rejected: Tensor | None = None,
    ) -> Dataset:  # fmt: skip
        """Unselected data whose moments (N, *S) are at hand; of pairs, `rejected` (N, *S) are means of the same std.

        Raises:
            DataError: there are not as many moments as captions.
        """
        sizes = {len(mean), len(std), len(prompts)}
        if len(sizes) != 1:
            raise DataError(f"dataset: expected as many latents as captions, got sizes {sorted(sizes)}")
        worse = None if rejected is None else lambda rows: (rejected[rows], std[rows])
        return cls(lambda rows: (mean[rows], std[rows]), prompts, metadata, "nothing", 0, rejected=worse)

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, index: np.ndarray) -> tuple[list[str], list[Mapping[str, Any]]]:
        """Captions and metadata of these rows."""
        return [self.prompts[i] for i in index], [self.metadata[i] for i in index]

    @property
    def texts(self) -> list[str]:
        """All captions that training may see."""
        return [*self.prompts, *(text for texts in self.more for text in texts)]

    def drawn(self, index: np.ndarray, draws: Callable[[], np.ndarray]) -> list[str]:
        """One caption of each of these rows, all of a row equally likely by `draws` (b,) in [0, 1).

        Nothing is drawn where no row has several.
        """
        if not self.more:
            return [self.prompts[i] for i in index]
        choices = [(self.prompts[i], *self.more[i]) for i in index]
        return [some[int(draw * len(some))] for some, draw in zip(choices, draws(), strict=True)]


@dataclass(frozen=True)
class BucketedDataset:
    """As a `Dataset`, with latents of several `shapes` (C, h, w), one for each of the `parts`.

    Rows are counted through from the first part to the last. `selected_by` and `scored` are the same in all parts.
    """

    parts: tuple[Dataset, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.shapes):
            raise DataError(
                f"data in buckets: expected a shape for each bucket, one at least, got {len(self.shapes)} shapes for "
                f"{len(self.parts)} buckets"
            )

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> list[int]:
        """Pictures of each part."""
        return [len(part) for part in self.parts]

    @cached_property
    def prompts(self) -> Sequence[str]:
        """Captions of all rows."""
        return [prompt for part in self.parts for prompt in part.prompts]

    @property
    def selected_by(self) -> str:
        """The scorer that chose the pictures."""
        return self.parts[0].selected_by

    @property
    def scored(self) -> int:
        """How many candidates it looked at."""
        return self.parts[0].scored

    def rows(self, index: np.ndarray) -> tuple[list[str], list[Mapping[str, Any]]]:
        """Captions and metadata of these rows, which are of one part."""
        part, own = self._within(index)
        return part.rows(own)

    @property
    def texts(self) -> list[str]:
        """All captions that training may see."""
        return [text for part in self.parts for text in part.texts]

    def drawn(self, index: np.ndarray, draws: Callable[[], np.ndarray]) -> list[str]:
        """One caption of each of these rows, which are of one part."""
        part, own = self._within(index)
        return part.drawn(own, draws)

    def moments(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and std (B, *S) float32 of these rows, which are of one part."""
        part, own = self._within(index)
        return part.moments(own)

    @property
    def rejected(self) -> Moments | None:
        """As `moments`, of the rejected pictures."""
        return None if self.parts[0].rejected is None else self._rejected

    def _rejected(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        part, own = self._within(index)
        assert part.rejected is not None
        return part.rejected(own)

    def _within(self, index: np.ndarray) -> tuple[Dataset, np.ndarray]:
        first = np.cumsum([0, *self.counts])
        numbers = set((np.searchsorted(first, index, side="right") - 1).tolist())
        if len(numbers) != 1:
            raise DataError(
                f"rows {index.tolist()}: expected those of one bucket, for a batch holds one size of picture"
            )
        number = numbers.pop()
        return self.parts[number], index - first[number]


def bucket_turns(counts: Sequence[int], phases: np.ndarray, updates: int) -> np.ndarray:
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


class SampleOrder:
    """Rows of a data set of `counts` pictures by bucket, the rows of one bucket after those of another.

    Whole batches are of one bucket, each bucket as often as its share of all pictures. It is a pure function of the
    seed and the sample index, the same for all methods of one batch size, on any number of processes, after a resume.

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
            self._turns = bucket_turns(self._counts, self._phases, 2 * update + 64)
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
