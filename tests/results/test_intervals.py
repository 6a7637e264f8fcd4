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
from bench.results.statistics.intervals import (
    Interval,
    crossed_interval,
    detectable,
    holm,
    p_value,
    paired_differences,
    verdict,
)

COVERAGE = Path(__file__).parents[2] / "results" / "statistics" / "coverage.json"


def interval(low: float, high: float, seeds: int = 3) -> Interval:
    """The interval from low to high, whose variance is over seeds alone."""
    error = (high - low) / 2 / student.ppf(0.975, seeds - 1)
    return Interval((low + high) / 2, low, high, error**2, 0.0, seeds, 10)


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


def test_clusters_hand_computed() -> None:
    """Two clusters, of one prompt and of two.

    Prompt means 1.5, 2.5, 5, mean 3: the clusters' sums of what they differ by are -1.5 and 1.5. Seed means 2 and 4.
    Residuals +-(.5, -.5, 0): sums of clusters +-(.5, -.5).
    """
    values = np.array([[1.0, 1.0, 4.0], [2.0, 4.0, 6.0]])
    found = crossed_interval(values, clusters=np.array([4, 7, 7]))
    assert (found.mean, found.clusters) == (3.0, 2)
    assert found.seed_variance == pytest.approx(2 / 2)
    scale = 2 / (1 * 3**2)  # G / ((G - 1) P^2)
    assert found.prompt_variance == pytest.approx(scale * (4.5 - 4 * 0.25 / (2 * 1)))
    assert found.high - found.mean == pytest.approx(12.7062047 * found.error)  # one degree of freedom on both sides


def test_clusters_of_one_prompt_change_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(4, 30)) + np.linspace(-1, 1, 30)
    apart = crossed_interval(values, clusters=np.random.default_rng(1).permutation(30))
    whole = crossed_interval(values)
    seeds, prompts = values.shape
    noise = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    ms_prompt = seeds * values.mean(0).var(ddof=1)
    ms_noise = (noise**2).sum() / ((seeds - 1) * (prompts - 1))
    assert whole.prompt_variance == pytest.approx((ms_prompt - ms_noise) / (seeds * prompts), rel=1e-12)
    assert whole.seed_variance == pytest.approx(values.mean(1).var(ddof=1) / seeds, rel=1e-12)
    assert (apart.low, apart.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_a_prompt_shown_twice_is_no_second_draw() -> None:
    values = np.random.default_rng(0).normal(size=(3, 20)) + np.linspace(-2, 2, 20)
    twice = crossed_interval(np.tile(values, 2), clusters=np.tile(np.arange(20), 2))
    once = crossed_interval(values)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), rel=1e-12)
    assert crossed_interval(np.tile(values, 2)).error < once.error  # as prompts by themselves they would be surer


def test_a_fixed_model_with_clusters_has_the_variance_of_a_ratio_of_totals() -> None:
    """Totals 3, 3 over sizes 2, 1: mean 2, linearised totals 3 - 2 * 2 = -1 and 3 - 1 * 2 = 1."""
    found = crossed_interval(np.array([[1.0, 2.0, 3.0]]), fixed_seed=True, clusters=np.array([0, 0, 2]))
    assert (found.mean, found.seed_variance, found.clusters) == (2.0, 0.0, 2)
    assert found.prompt_variance == pytest.approx(2 / 1 * 2 / 9)


def test_one_cluster_has_no_interval_and_each_prompt_needs_a_label() -> None:
    assert math.isnan(crossed_interval(np.ones((2, 3)), clusters=np.zeros(3, int)).low)
    with pytest.raises(DataError, match="a cluster for each of 3 prompts"):
        crossed_interval(np.ones((2, 3)), clusters=np.zeros(2, int))


def test_p_values_hand_computed() -> None:
    # over seeds alone, three of them: Student's t with 2 degrees of freedom, whose tail has a closed form
    by_seed = np.array([0.1, 0.4, 0.25])
    found = crossed_interval(np.repeat(by_seed[:, None], 5, axis=1))
    t = by_seed.mean() / (by_seed.std(ddof=1) / math.sqrt(3))
    assert p_value(found) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
    assert p_value(found) == pytest.approx(ttest_1samp(by_seed, 0).pvalue, rel=1e-9)
    # half the variance over seeds (2 degrees of freedom), half over prompts (9): 4.302653 and 2.262157 at .05
    edge = (4.30265273 + 2.26215716) / 2
    assert p_value(Interval(edge, 0, 1, 0.5, 0.5, 3, 10)) == pytest.approx(0.05, rel=1e-6)
    assert p_value(Interval(-edge, -1, 0, 0.5, 0.5, 3, 10)) == pytest.approx(0.05, rel=1e-6)
    assert p_value(Interval(0.0, -1, 1, 0.5, 0.5, 3, 10)) == pytest.approx(1)
    assert p_value(Interval(1.0, 1, 1, 0.0, 0.0, 3, 10)) == pytest.approx(0, abs=1e-15)
    assert math.isnan(p_value(crossed_interval(np.ones((1, 5)))))


def test_p_is_below_the_level_just_where_the_interval_excludes_zero() -> None:
    random, seen = np.random.default_rng(0), []
    for _ in range(300):
        values = 0.1 * random.normal() + 0.1 * random.normal(size=(3, 1)) + random.normal(size=(1, 40))
        found = crossed_interval(values, clusters=random.integers(12, size=40))
        seen.append(found.low > 0 or found.high < 0)
        assert (p_value(found) < 0.05) == seen[-1]
    assert 0 < sum(seen) < 300


def test_holm_hand_computed() -> None:
    # sorted: .005 x 4, .011 x 3, .02 x 2, .04 x 1; the last may not be smaller than the one before
    assert holm([0.02, 0.005, 0.039, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


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
        (0.01, 0.06, 0.05, True, "slightly better"),
        (0.01, 0.06, 0.05, False, "slightly worse"),
        (-0.06, -0.01, 0.05, True, "slightly worse"),
        (-0.06, -0.01, 0.05, False, "slightly better"),
        (-0.04, 0.04, None, True, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, margin: float | None, higher: bool, expected: str) -> None:
    assert verdict(interval(low, high), margin, higher) == expected


def test_a_corrected_p_value_takes_the_place_of_its_own() -> None:
    sure = interval(0.1, 0.3)
    assert p_value(sure) < 0.05 and verdict(sure, 0.05) == verdict(sure, 0.05, p=0.049) == "better"
    assert verdict(sure, 0.05, p=0.051) == "undecided"
    assert verdict(interval(0.01, 0.04), 0.05, p=1.0) == "tie"  # which the correction leaves: its interval is inside


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
    monkeypatch.setattr(stats, "variance_parts", lambda *values: (whole(*values)[0], 0.0))
    assert coverage_simulation(Scenario(0.0, 0.3, 0.1), 5, prompts=96, repeats=100) < 0.6


def test_pooling_seeds_and_prompts_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "variance_parts", lambda values, _: (0.0, float(values.var(ddof=1)) / values.size))
    assert coverage_simulation(Scenario(0.02, 0.0, 0.1), 5, prompts=96, repeats=100) < 0.8


def test_leaving_out_the_clusters_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stats.variance_parts
    monkeypatch.setattr(stats, "variance_parts", lambda values, _: whole(values, np.arange(values.shape[1])))
    assert coverage_simulation(SCENARIOS["claims in several wordings"], 5, prompts=96, repeats=100) < 0.8


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
