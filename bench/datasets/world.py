"""What a world gives to the harness: a base model, prompts kept apart by split, and candidates to curate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bench.api import Prompt
from bench.datasets.buckets import Size


class PictureArray(Protocol):
    """Pictures uint8 (N, H, W, 3) that need not lie in memory: an array, or files that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray:
        """One picture (H, W, 3) by its number, or those of a slice or of an array of numbers (n, H, W, 3)."""


class Bucket(NamedTuple):
    """Those candidates, by their rising `rows`, that are trained on at one `size` (W, H); `digests` name them there."""

    size: Size
    rows: np.ndarray
    images: PictureArray
    digests: Sequence[str]


@dataclass(frozen=True)
class Candidates:
    """Captioned pictures uint8 (N, H, W, 3) from which a scorer selects the supervised data.

    `selected_by` names the scorer that chose them before, among `scored` pictures; nobody where it is empty. `digests`
    name each picture as it is prepared, where that can be told without its pixels. `buckets` hold all of them once more
    at the sizes they are trained on; where there are none, that is the size of `images`. `more` are the captions of
    each picture beside its prompt, and `repeats` how often an epoch shows it, where they differ from none and once.

    Of N/2 pairs, here and in each bucket, the pictures of the second half belong to those of the first in turn, with
    the same captions; those of the first half are the better ones where the pairs are `ranked`.
    """

    images: PictureArray
    prompts: Sequence[Prompt]
    selected_by: str = ""
    scored: int = 0
    digests: Sequence[str] | None = None
    buckets: tuple[Bucket, ...] = ()
    more: Sequence[Sequence[str]] = ()
    repeats: Sequence[int] = ()
    ranked: bool = False


class World(Protocol):
    """A source of data and prompts around one base model."""

    name: str
    version: str
    model: Path
    categories: tuple[str, ...]

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """`count` prompts of one of `splits.SPLITS`, or all where there are fewer; no text of one occurs in another.

        `held_out` has the combinations of attributes that nothing was trained on, or captions that nothing else uses.
        """

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` pictures to train on, or all where there are fewer, with captions of the train split."""

    def pairs(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` pairs of pictures of one caption of the train split, or all where there are fewer."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Unit-length embeddings (B, D) float32 of pictures uint8 (B, H, W, 3), for diversity."""
