"""Intervals against closed forms and hand-computed numbers, verdicts, power, and coverage by simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from bench.api import DataError
from bench.results.statistics import intervals as stats
from bench.results.statistics.coverage import SCENARIOS, TRUTH, Scenario, coverage_simulation
from bench.results.statistics.intervals import Interval, crossed_interval, detectable, paired_differences, verdict

COVERAGE = Path(__file__).parents[2] / "results" / "statistics" / "coverage.json"


def interval(low: float, high: float, seeds: int = 3) -> Interval:
    return Interval((low + high) / 2, low, high, 0.1, 0.0, seeds, 10)


def test_hand_computed() -> None:
    # Additive, so no residual. Seed means 2, 3 (variance 1/2): V_a = 1/4. Prompt means 1.5, 2.5, 3.5: V_b = 1/3.
    found = crossed_interval(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]))
    assert found.mean == 2.5
    assert found.seed_variance == pytest.approx(0.25)
    assert found.prompt_variance == pytest.approx(1 / 3)
    quantile = (0.25 * 12.7062047 + 4.30265273 / 3) / (7 / 12)
    assert found.high - found.mean == pytest.approx(quantile * math.sqrt(7 / 12), rel=1e-6)


def test_without_prompt_effects_it_is_the_t_interval_over_seeds() -> None:
    by_seed = np.array([0.1, 0.4, 0.3, 0.35])
    found = crossed_interval(np.repeat(by_seed[:, None], 7, axis=1))
    expected = ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_fixed_model_has_the_t_interval_over_prompts() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 40))
    expected = ttest_1samp(scores[0], 0).confidence_interval(0.95)
    found = crossed_interval(scores, fixed_seed=True)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_identical_seeds_leave_the_prompts() -> None:
    scores = np.random.default_rng(0).normal(size=40)
    found = crossed_interval(np.stack([scores, scores]))
    expected = ttest_1samp(scores, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_seed_noise_is_counted_once() -> None:
    """Pure noise: the expected squared error is 1 / (S P), not 2 / (S P)."""
    random = np.random.default_rng(0)
    errors = [crossed_interval(random.normal(size=(4, 50))).error ** 2 for _ in range(400)]
    assert np.mean(errors) == pytest.approx(1 / 200, rel=0.2)  # the cut at 0 adds a little


def test_one_seed_has_no_interval() -> None:
    found = crossed_interval(np.ones((1, 5)))
    assert found.mean == 1 and math.isnan(found.low) and math.isnan(detectable(found))
    assert verdict(found, 0.1) == "undecided (one seed)"


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(3), np.array([[1.0, np.nan], [1.0, 2.0]])])
def test_bad_scores_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="seeds, prompts"):
        crossed_interval(values)


def test_a_fixed_model_has_one_row() -> None:
    with pytest.raises(DataError, match="without seed"):
        crossed_interval(np.zeros((2, 3)), fixed_seed=True)


def test_pairing() -> None:
    method, base = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 1.0]])
    assert paired_differences(method, base).tolist() == [[0.0, 1.0], [2.0, 3.0]]
    with pytest.raises(DataError, match="cannot pair"):
        paired_differences(method, np.zeros((3, 2)))
    with pytest.raises(DataError, match="cannot pair"):
        paired_differences(method, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("low", "high", "margin", "higher", "expected"),
    [
        (0.1, 0.3, 0.05, True, "better"),
        (0.1, 0.3, 0.05, False, "worse"),
        (-0.3, -0.1, 0.05, True, "worse"),
        (-0.3, -0.1, 0.05, False, "better"),
        (-0.1, 0.3, 0.05, True, "undecided"),
        (-0.04, 0.04, 0.05, True, "tie"),
        (0.01, 0.04, 0.05, True, "tie"),
        (0.01, 0.04, None, True, "better"),
        (-0.04, 0.04, None, True, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, margin: float | None, higher: bool, expected: str) -> None:
    assert verdict(interval(low, high), margin, higher) == expected


def test_the_detectable_difference_is_seen_in_four_of_five_experiments() -> None:
    random = np.random.default_rng(0)
    design = Scenario(seed=0.02, prompt=0.0, noise=0.0)
    error, seeds = design.seed / math.sqrt(5), 5
    true = (student.ppf(0.975, 4) + student.ppf(0.8, 4)) * error
    one = Interval(0, -1, 1, error**2, 0.0, seeds, 50)
    assert detectable(one) == pytest.approx(true)
    draws = true + design.seed * random.standard_normal((500, seeds, 1)) + np.zeros((1, 1, 5))
    seen = np.mean([crossed_interval(draw).low > 0 for draw in draws])
    assert 0.75 < seen < 0.9


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("name", SCENARIOS)
def test_intervals_cover(name: str, seeds: int) -> None:
    # 150 repeats: 0.90 is 3 binomial deviations below 0.95; the stored simulation has 4,000
    assert coverage_simulation(SCENARIOS[name], seeds, prompts=96, repeats=150) >= 0.9


def test_the_stored_simulation_covers() -> None:
    table = json.loads(COVERAGE.read_text())["coverage"]
    assert set(table) == set(SCENARIOS)
    for name, row in table.items():
        for seeds in ("3", "5", "10"):
            assert row[seeds] >= 0.93, (name, seeds)


def test_leaving_out_the_prompts_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stats.variance_parts
    monkeypatch.setattr(stats, "variance_parts", lambda values: (whole(values)[0], 0.0))
    assert coverage_simulation(Scenario(0.0, 0.3, 0.1), 5, prompts=96, repeats=100) < 0.6


def test_pooling_seeds_and_prompts_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "variance_parts", lambda values: (0.0, float(values.var(ddof=1)) / values.size))
    assert coverage_simulation(Scenario(0.02, 0.0, 0.1), 5, prompts=96, repeats=100) < 0.8


def test_satterthwaite_would_cover_less() -> None:
    """Why the quantiles are weighed: with few seeds, estimated degrees of freedom are too many."""
    random = np.random.default_rng(0)
    ours = theirs = 0
    for _ in range(600):
        values = TRUTH + 0.0132 * random.standard_normal((2, 1)) + 0.04 * random.standard_normal((1, 96))
        found = crossed_interval(values)
        spread = found.seed_variance**2 + found.prompt_variance**2 / 95
        half = student.ppf(0.975, found.error**4 / spread) * found.error
        ours += found.low <= TRUTH <= found.high
        theirs += abs(found.mean - TRUTH) <= half
    assert theirs / 600 < 0.91
    assert ours / 600 > 0.925
