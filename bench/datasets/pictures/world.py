"""The user's own pictures as a world: their captions are the prompts, those of the train split the candidates."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.api import ConfigError, DataError, Prompt
from bench.config.pictures import Data
from bench.datasets.base_model import base_model
from bench.datasets.buckets import Size
from bench.datasets.pictures.inspection import Picture
from bench.datasets.pictures.preparation import (
    MORE_CAPTIONS,
    PreparedPictures,
    as_prompt,
    prepare_pictures,
    require_pictures,
)
from bench.datasets.scenes.manifest import ASSETS
from bench.datasets.splits import SPLITS
from bench.datasets.world import Bucket, Candidates

if TYPE_CHECKING:
    from bench.datasets.scenes.proxies import ProxyClip


class ImagesWorld:
    """Captioned pictures around a base model; the embedded one where none is given.

    A caption's hash decides its split: seven tenths train, one each tune, report and held out. Where there are too few
    for that, all of them train, the prompts of `judges` stand for those of `report`, and none is held out. Categories
    are the tags of the pictures, `all` where they have none. `version` is the fingerprint of pictures and captions.
    """

    name = "images"

    def __init__(self, data: Data | None, model: str | None = None, judges: Sequence[Prompt] = ()) -> None:
        self.model = base_model(model)
        self._prepared: PreparedPictures = prepare_pictures(require_pictures(data), self.model)
        self.version = self._prepared.found.fingerprint
        self.categories = tuple(sorted({as_prompt(0, p).category for p in self._prepared.inspected.kept}))
        self._judges = _renumbered({prompt.text: prompt for prompt in judges}.values())
        self._clip: ProxyClip | None = None

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """`count` captions of a split, each once, or all where there are fewer; in an order that is random but fixed.

        Prompts that judge in the place of captions are of every category.

        Raises:
            ConfigError: there is no such split.
            DataError: the split is empty.
        """
        if split not in SPLITS:
            raise ConfigError(f"prompt split {split!r}: expected one of {', '.join(SPLITS)}")
        if self._prepared.found.all_train and split in ("report", "held_out"):
            return self._judges[:count] if split == "report" else []
        own = {p.caption: p for p in self._prepared.inspected.kept if self._prepared.split_of(p.caption) == split}
        prompts = [as_prompt(i, p) for i, p in enumerate(_shuffled(own.values()))]
        chosen = [p for p in prompts if p.category in categories][:count]
        if not chosen:
            raise DataError(
                f"no caption of the categories {', '.join(categories)} falls into the split {split!r}: {MORE_CAPTIONS}"
                + ("; or set --evaluation.held_out_prompts 0" if split == "held_out" else "")
            )
        return chosen

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` pictures of the train split, or all where there are fewer; they are read when they are asked for."""
        once: dict[str, Picture] = {}
        for picture in self._training(categories):
            once.setdefault(picture.digest, picture)  # one may have been chosen in several pairs
        chosen = set(_shuffled(once.values())[:count])
        return self._candidates([p for p in once.values() if p in chosen])

    def pairs(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` pictures of the train split, or all where there are fewer, each with the one rejected for it.

        Raises:
            DataError: there is none.
        """
        pairs = [p for p in self._training(categories) if p.rejected is not None]
        if not pairs:
            raise DataError(
                f"no pair of the categories {', '.join(categories)} is there to train on: `bench list data` says how "
                "pictures come in pairs"
            )
        chosen = set(_shuffled(pairs)[:count])
        rows = [p for p in pairs if p in chosen]
        return self._candidates([*rows, *(p.rejected for p in rows if p.rejected)], ranked=True)

    def _training(self, categories: Sequence[str]) -> list[Picture]:
        """The pictures to train on that are of these categories, one at least."""
        wanted = [p for p in self._prepared.training if as_prompt(0, p).category in categories]
        if not wanted:
            raise DataError(
                f"no picture of the categories {', '.join(categories)} is there to train on: {MORE_CAPTIONS}"
            )
        return wanted

    def _candidates(self, rows: Sequence[Picture], *, ranked: bool = False) -> Candidates:
        found = self._prepared.found
        return Candidates(
            StoredPictures(self._prepared, rows, self._prepared.square), [as_prompt(i, p) for i, p in enumerate(rows)],
            selected_by=found.selected_by or "", scored=found.scored, ranked=ranked,
            digests=[p.prepared_digest(self._prepared.square) for p in rows], buckets=self._buckets(rows),
            more=[self._prepared.more_captions(p) for p in rows] if found.several else (),
            repeats=[p.repeats for p in rows] if found.shown else (),
        )  # fmt: skip

    def _buckets(self, rows: Sequence[Picture]) -> tuple[Bucket, ...]:
        """The pictures by the size at which they are trained on; nothing where that is the square alone."""
        if self._prepared.found.buckets is None:
            return ()
        found = []
        for size in self._prepared.sizes:
            own = [row for row, picture in enumerate(rows) if picture.crop.to == size]
            if own:
                pictures = [rows[row] for row in own]
                digests = [picture.prepared_digest(size) for picture in pictures]
                found.append(Bucket(size, np.array(own), StoredPictures(self._prepared, pictures, size), digests))
        return tuple(found)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Image embeddings of the embedded world's CLIP, for every model: pictures are brought to its 64 pixels first.

        It has seen drawn scenes only, but it is there for everybody, and the same for all methods: the diversity
        that it measures compares methods on the same pictures, and is no absolute number.
        """
        from bench.datasets.scenes.proxies import CLIP_FOLDER, ProxyClip

        if self._clip is None:
            self._clip = ProxyClip(ASSETS / CLIP_FOLDER)
        size = (self._clip.size, self._clip.size)
        if images.shape[1:3] != size:
            small = [Image.fromarray(image).resize(size, Image.Resampling.LANCZOS) for image in images]
            images = np.stack([np.asarray(image) for image in small])
        return self._clip.image(images).numpy()


class StoredPictures:
    """Pictures uint8 (N, H, W, 3) of a size (W, H) that are read from where they lie when they are asked for."""

    def __init__(self, prepared: PreparedPictures, rows: Sequence[Picture], size: Size) -> None:
        self._prepared = prepared
        self._rows = rows
        self._size = size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        """One picture by its number, or those of a slice or of an array of numbers."""
        if isinstance(index, int | np.integer):
            return self._prepared.read([self._rows[int(index)]], self._size)[0]
        numbers = range(len(self._rows))[index] if isinstance(index, slice) else index
        return self._prepared.read([self._rows[number] for number in numbers], self._size)


def _shuffled(pictures: Any) -> list[Picture]:
    """In the order of a hash of caption and bytes: not that of the files, and the same for everybody."""
    return sorted(pictures, key=lambda p: hashlib.blake2b(f"{p.caption}\0{p.digest}".encode(), digest_size=8).digest())


def _renumbered(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Prompts in the order of a hash of their text, numbered by it: not those of one category first."""
    ordered = sorted(prompts, key=lambda p: hashlib.blake2b(p.text.encode(), digest_size=8).digest())
    return [dataclasses.replace(prompt, index=index) for index, prompt in enumerate(ordered)]
