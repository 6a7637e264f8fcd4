"""Rewards under trl's calling convention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.api import DataError, Reward
from bench.trl import reward_function


class Darkness(Reward):
    """Lower is better; judges no text; remembers what it was given."""

    name = "darkness"
    higher_is_better = False

    def __init__(self) -> None:
        self.metadata: list[Mapping[str, Any]] = []

    @classmethod
    def applies(cls, metadata: Mapping[str, Any]) -> bool:
        return metadata["tag"] != "text"

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        self.metadata += metadata
        return 1 - images.reshape(len(images), -1).mean(1) / 255


PICTURES = [np.full((2, 2, 3), grey, np.uint8) for grey in (0, 255, 51)]


def call(reward: Reward, prompts: list[Any], completions: list[Any]) -> list[float | None]:
    """As trl.GRPOTrainer._calculate_rewards calls it."""
    return reward_function(reward)(
        prompts=prompts, completions=completions, completion_ids=[[1], [2], [3]], tag=["colors", "text", "colors"],
        count=[2, None, 0], trainer_state=object(), log_extra=print, log_metric=print,
    )  # fmt: skip


@pytest.mark.parametrize("pictures", [PICTURES, [Image.fromarray(picture) for picture in PICTURES]])
def test_scores_are_floats_that_rise_and_none_where_nothing_can_be_judged(pictures: list[Any]) -> None:
    reward = Darkness()
    assert call(reward, ["a", "b", "c"], pictures) == [-1.0, None, pytest.approx(-0.8)]
    assert reward.metadata == [{"tag": "colors", "count": 2}, {"tag": "colors", "count": 0}]


def test_trl_logs_it_under_the_name_of_the_reward() -> None:
    assert reward_function(Darkness()).__name__ == "darkness"


def test_what_is_no_text_or_no_picture_for_each_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="expected prompts that are texts"):
        call(Darkness(), [[{"role": "user", "content": "a"}]] * 3, PICTURES)
    with pytest.raises(DataError, match="and 2 completions"):
        call(Darkness(), ["a", "b", "c"], PICTURES[:2])
