"""Rewards in trl's calling convention, both ways: ours as one of trl's functions, and trl's functions as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.api import DataError, Reward
from bench.scoring.scorer import Scorer
from bench.trl_functions import OF_TRAINERS


def reward_function(reward: Reward) -> Callable[..., list[float | None]]:
    """A reward as one of trl's `reward_funcs`.

    trl calls it with `prompts` (texts), `completions` (here pictures uint8 (H, W, 3), as arrays or PIL images), and
    each further column of its dataset as a list of that length, which together are the metadata; a column's None means
    that the row lacks it. Higher is better, as trl wants it; None where the reward cannot judge it.

    Raises, when called:
        DataError: prompts that are no texts, not one picture for each prompt, or what is no such picture.

    Source: trl, GRPOTrainer, `reward_funcs` and `_calculate_rewards`.
    """
    scorer = Scorer(reward)

    def function(prompts: Sequence[str], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        if len(completions) != len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
            raise DataError(
                f"reward {reward.name!r}: expected prompts that are texts, with one picture each, got {len(prompts)} "
                f"prompts such as {list(prompts)[:1]} and {len(completions)} completions"
            )
        metadata = _metadata_rows(columns, len(prompts))
        images = [_pixels(picture, reward.name) for picture in completions]
        sign, scores = 1 if reward.higher_is_better else -1, list[float | None]([None] * len(images))
        for size in dict.fromkeys(image.shape for image in images):  # a batch holds pictures of one size
            rows = [i for i, image in enumerate(images) if image.shape == size and reward.applies(metadata[i])]
            if rows:
                parts = (np.stack([images[i] for i in rows]), [prompts[i] for i in rows], [metadata[i] for i in rows])
                for i, score in zip(rows, scorer(*parts), strict=True):
                    scores[i] = None if np.isnan(score) else sign * float(score)
        return scores

    function.__name__ = reward.name  # the name under which trl logs it
    return function


def _pixels(picture: Any, reward: str) -> np.ndarray:
    """Pixels uint8 (H, W, 3) of an array, or of a PIL image of any mode."""
    from PIL import Image

    pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(
            f"reward {reward!r}: expected completions that are pictures, PIL images or arrays uint8 (H, W, 3), got a "
            f"{type(picture).__name__} that is {pixels.dtype} {pixels.shape}"
        )
    return pixels


def _metadata_rows(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The dataset's columns by row, without what a row lacks; trl's own arguments are left out."""
    lists = {
        name: values
        for name, values in columns.items()
        if name not in OF_TRAINERS and isinstance(values, list) and len(values) == count
    }
    return [_without_none({name: values[i] for name, values in lists.items()}) for i in range(count)]


def _without_none(value: Any) -> Any:
    """A dataset gives every row the keys of all of them, at every depth, and None for those it does not have."""
    if isinstance(value, Mapping):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value
