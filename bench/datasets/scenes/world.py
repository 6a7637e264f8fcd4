"""The embedded world as the harness sees it: its base model, its prompts by split, its candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.api import ConfigError, Prompt
from bench.datasets.base_model import base_model
from bench.datasets.scenes.manifest import ASSETS
from bench.datasets.scenes.render import render_scenes
from bench.datasets.scenes.scene import sample_pictures, sample_prompts, sample_scenes
from bench.datasets.scenes.vocabulary import CATEGORIES, HELD_OUT_CATEGORIES
from bench.datasets.splits import SPLITS, text_bucket
from bench.datasets.world import Candidates

if TYPE_CHECKING:
    from bench.datasets.scenes.proxies import ProxyClip

WRONG_CAPTIONS = 0.1  # share in candidates, as in the pre-training data
_CHUNK = 512
# A caption's hash decides which split may use it, so no text is in two of them.
_BUCKETS = {"report": range(0, 3), "tune": range(3, 4), "train": range(4, 10)}


class ScenesWorld:
    """Scenes of coloured shapes and short texts around a miniature Stable Diffusion 3."""

    name = "scenes"
    version = "1"
    categories: tuple[str, ...] = CATEGORIES

    def __init__(self, model: str | None = None) -> None:
        self.model = base_model(model)
        self._clip: ProxyClip | None = None

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """`count` prompts; their index counts within (split, categories)."""
        if split not in SPLITS:
            raise ConfigError(f"prompt split {split!r}: expected one of {', '.join(SPLITS)}")
        stream = self._held_out(categories) if split == "held_out" else self._by_text(split, categories)
        return [Prompt(i, p.text, p.metadata) for i, p in zip(range(count), stream, strict=False)]

    def _held_out(self, categories: Sequence[str]) -> Iterator[Prompt]:
        wanted = set(categories) & set(HELD_OUT_CATEGORIES)
        if not wanted:
            raise ConfigError(
                f"categories {', '.join(categories)} have no held-out combinations; these have: "
                f"{', '.join(HELD_OUT_CATEGORIES)}; or set evaluation.held_out_prompts to 0"
            )
        return self._stream("held_out", wanted, "held_out")

    def _by_text(self, split: str, categories: Sequence[str]) -> Iterator[Prompt]:
        buckets = _BUCKETS[split]
        return (p for p in self._stream(split, set(categories), "train") if text_bucket(p.text) in buckets)

    def _stream(self, name: str, categories: set[str], split: str) -> Iterator[Prompt]:
        start = 0
        while True:
            for p in sample_prompts(name, 0, start, _CHUNK, split=split):
                if p.metadata["tag"] in categories:
                    yield p
            start += _CHUNK

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` fresh pictures; captions that belong to the tuning or reporting prompts are left out."""
        wanted, images = set(categories), []
        prompts: list[Prompt] = []
        start = 0
        while len(prompts) < count:
            scenes = sample_scenes("candidates", 0, start, _CHUNK, wrong_caption_share=WRONG_CAPTIONS)
            start += _CHUNK
            scenes = [s for s in scenes if s.metadata["tag"] in wanted and text_bucket(s.caption) in _BUCKETS["train"]][
                : count - len(prompts)
            ]
            prompts += [Prompt(len(prompts) + i, s.caption, s.metadata) for i, s in enumerate(scenes)]
            images.append(render_scenes(scenes))
        return Candidates(np.concatenate(images), prompts)

    def pairs(self, categories: Sequence[str], count: int) -> Candidates:
        """Two pictures of each of `count` training prompts, as flawed as candidates are; not ranked."""
        prompts = self.prompts("train", categories, count)
        two = [sample_pictures("pairs", 0, prompt, 2, wrong_share=WRONG_CAPTIONS) for prompt in prompts]
        scenes = [pair[half] for half in (0, 1) for pair in two]
        chunks = range(0, len(scenes), _CHUNK)
        images = np.concatenate([render_scenes(scenes[start : start + _CHUNK]) for start in chunks])
        return Candidates(images, 2 * prompts)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Image embeddings of the world's CLIP."""
        from bench.datasets.scenes.proxies import CLIP_FOLDER, ProxyClip

        if self._clip is None:
            self._clip = ProxyClip(ASSETS / CLIP_FOLDER)
        return self._clip.image(images).numpy()
