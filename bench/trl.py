"""Rewards as trl calls them, so that a scorer written for this harness also trains with trl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.api import DataError, Reward
from bench.scorers.scorer import Scorer


def reward_function(reward: Reward) -> Callable[..., list[float | None]]:
    """A reward as one of trl's `reward_funcs`.

    trl calls it with `prompts` (texts), `completions` (here pictures uint8 (H, W, 3), as arrays or PIL images), and
    each further column of its dataset as a list of that length, which together are the metadata; a column's None means
    that the row lacks it. Higher is better, as trl wants it; None where the reward cannot judge the prompt.

    Raises, when called:
        DataError: prompts that are no texts, or not one picture for each prompt.

    Source: trl, GRPOTrainer, `reward_funcs` and `_calculate_rewards`.
    """
    scorer = Scorer(reward)

    def function(prompts: Sequence[str], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        if len(completions) != len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
            raise DataError(
                f"reward {reward.name!r}: expected prompts that are texts, with one picture each, got {len(prompts)} "
                f"prompts such as {list(prompts)[:1]} and {len(completions)} completions"
            )
        metadata = _rows(columns, len(prompts))
        images = np.stack([np.asarray(picture, np.uint8) for picture in completions])
        judged = np.array([reward.applies(row) for row in metadata])
        scores = scorer.where_it_applies(images, prompts, metadata) * (1 if reward.higher_is_better else -1)
        return [float(score) if judge else None for score, judge in zip(scores, judged, strict=True)]

    function.__name__ = reward.name  # the name under which trl logs it
    return function


def _rows(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The dataset's columns by row; trl's own arguments (`trainer_state`, `log_metric`, ...) are no lists."""
    lists = {
        name: values
        for name, values in columns.items()
        if name != "completion_ids" and isinstance(values, list) and len(values) == count
    }
    return [{name: values[i] for name, values in lists.items() if values[i] is not None} for i in range(count)]
