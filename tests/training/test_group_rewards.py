"""A reward that scores whole groups, in the harness's own environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.api import PluginError, Reward
from bench.datasets.mixture import ClosedFormPolicy
from bench.preflight.conformance.closed_form_check import closed_form_stage
from bench.scoring.scorer import Scorer
from methods.raft import RAFT


class Rank(Reward):
    """The place of a picture in its group by brightness, from 0 to 1."""

    name: ClassVar[str] = "rank"
    groupwise: ClassVar[bool] = True

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return (images[:, 0, 0, 0].argsort().argsort() / (len(images) - 1)).astype(np.float32)


def test_a_group_is_scored_as_one_and_anything_else_is_refused() -> None:
    stage = closed_form_stage(RAFT(RAFT.Config(num_groups=3, num_generations=5)), ClosedFormPolicy.exact(), 1)
    stage.env._reward = Scorer(Rank())
    assert stage.env.scores_groups
    rollouts = stage.method.collect(stage.env)
    assert rollouts.metrics["reward_mean"] == pytest.approx(0.5)  # ranks 0, 1/4, ... 1 in each group
    assert len(rollouts.cond) == 3
    assert stage.limit.ledger.reward_calls == 15
    pictures = np.zeros((2, 1, 2, 3), np.uint8)
    with pytest.raises(PluginError, match="gave it pictures of 2 prompts"):
        stage.env.submit(pictures, ["left", "right"], [{}, {}])
    assert stage.limit.ledger.reward_calls == 15
