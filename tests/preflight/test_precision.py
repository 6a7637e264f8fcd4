"""Whether another precision moves scores."""

from __future__ import annotations

import pytest

from bench.preflight.precision import ScoreChange, changes_in


def test_a_change_within_the_margin_agrees() -> None:
    assert ScoreChange("a", -0.01, 0.01).agrees
    assert not ScoreChange("a", 0.011, 0.01).agrees


@pytest.mark.slow
def test_bfloat16_moves_scores_a_little_and_float32_not_at_all() -> None:
    half, same = changes_in("bfloat16", prompts=8), changes_in("float32", prompts=8)
    assert [change.difference for change in same] == [0.0] * len(same)
    named = {change.scorer: change for change in half}
    assert named.keys() == {change.scorer for change in same} and "scenes-clip" in named
    assert 0 < abs(named["scenes-clip"].difference) < 0.05
    assert named["scenes-clip"].margin == 0.005
