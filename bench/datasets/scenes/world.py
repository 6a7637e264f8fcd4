"""The embedded world as the harness sees it: its base model, its prompts by split, its candidates."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.api import ConfigError, Prompt
from bench.datasets.base_model import base_model
from bench.datasets.scenes.captions import pick, wordings
from bench.datasets.scenes.claims import split_of, stated_in, statement
from bench.datasets.scenes.manifest import ASSETS
from bench.datasets.scenes.render import render_scenes
from bench.datasets.scenes.scene import sample_pictures, sample_scenes
from bench.datasets.scenes.types import Claim
from bench.datasets.scenes.vocabulary import CATEGORIES, HELD_OUT_CATEGORIES
from bench.datasets.splits import SPLITS, round_robin
from bench.datasets.world import Candidates

if TYPE_CHECKING:
    from bench.datasets.scenes.proxies import ProxyClip

_CHUNK = 512


class ScenesWorld:
    """Scenes of coloured shapes and short texts around a miniature Stable Diffusion 3.

    wrong_captions, partial_captions: shares of candidates' captions that are false, and that leave something out where
    they say more than one thing; as in the pre-training data.
    """

    name = "scenes"
    version = "2"
    categories: tuple[str, ...] = CATEGORIES
    wrong_captions, partial_captions = 0.3, 0.25

    def __init__(self, model: str | None = None) -> None:
        self.model = base_model(model)
        self._clip: ProxyClip | None = None

    def prompts(self, split: str, categories: Sequence[str], count: int) -> list[Prompt]:
        """`count` prompts; their index counts within (split, categories).

        Categories take turns, and each states everything that the split may state before it says something again.
        """
        if split not in SPLITS:
            raise ConfigError(f"prompt split {split!r}: expected one of {', '.join(SPLITS)}")
        wanted = [category for category in CATEGORIES if category in categories and stated_in(split, category)]
        if not wanted:
            raise ConfigError(
                f"categories {', '.join(categories)} have no held-out combinations; these have: "
                f"{', '.join(HELD_OUT_CATEGORIES)}; or set evaluation.held_out_prompts to 0"
            )
        stream = round_robin([_stated(split, category) for category in wanted])
        return [Prompt(i, text, metadata) for i, (text, metadata) in zip(range(count), stream, strict=False)]

    def candidates(self, categories: Sequence[str], count: int) -> Candidates:
        """`count` fresh pictures; captions that state what tuning or reporting prompts may state are left out."""
        wanted, images = set(categories), []
        prompts: list[Prompt] = []
        start = 0
        while len(prompts) < count:
            scenes = sample_scenes(
                "candidates", 0, start, _CHUNK, wrong_caption_share=self.wrong_captions,
                partial_caption_share=self.partial_captions,
            )  # fmt: skip
            start += _CHUNK
            scenes = [s for s in scenes if s.metadata["tag"] in wanted and split_of(s.metadata) == "train"]
            scenes = scenes[: count - len(prompts)]
            prompts += [Prompt(len(prompts) + i, s.caption, s.metadata) for i, s in enumerate(scenes)]
            images.append(render_scenes(scenes))
        return Candidates(np.concatenate(images), prompts)

    def pairs(self, categories: Sequence[str], count: int) -> Candidates:
        """Two pictures of each of `count` training prompts, as flawed as candidates are; not ranked."""
        prompts = self.prompts("train", categories, count)
        two = [sample_pictures("pairs", 0, prompt, 2, wrong_share=self.wrong_captions) for prompt in prompts]
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


class RightScenesWorld(ScenesWorld):
    """The same with candidates whose captions are all right and whole, so that no scorer has to choose among them."""

    name = "scenes-right"
    wrong_captions, partial_captions = 0.0, 0.0


def _stated(split: str, category: str) -> Iterator[tuple[str, Claim]]:
    """Captions of a category without end, with their metadata, in rounds through all that the split may state.

    The metadata are GenEval's, and `claim`: the same for all captions that state the same.
    """
    for number in itertools.count():
        rng = random.Random(f"prompts/{split}/{category}/{number}")
        for claims in sorted(stated_in(split, category), key=lambda _: rng.random()):
            claim = pick(rng, claims)
            yield pick(rng, wordings(claim)), claim | {"claim": statement(claim)}
