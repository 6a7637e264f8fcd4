"""Intervals, verdicts and power for scores that vary over training seeds and over prompts.

All seeds are scored on the same prompts, so the spread over seeds does not show that other prompts would give other
numbers. Prompts that state the same claim in other words are no independent draws: they form a cluster, and what is
drawn are seeds and clusters. Scores (or paired differences) follow a crossed random-effects model,

    y[s, p] = mean + a[s] + b[p] + e[s, p],

with a[s] independent between seeds, b[p] between clusters, e[s, p] between seeds and between clusters. With the means
m_s over prompts and m_p over seeds, the residuals r = y - m_s - m_p + mean, and sums over the prompts p of a cluster g
out of G, two parts

    V_a = var(m_s) / S                                                  over seeds; it holds the residual noise
    V_b = max(sum_g (sum_p (m_p - mean))^2 - sum_sg (sum_p r_sp)^2 / (S (S - 1)), 0) G / ((G - 1) P^2)
                                                                        what all seeds share, without that noise again

add up to V, and the interval is mean +- t' V^1/2, where t' = (V_a t[S-1] + V_b t[G-1]) / V weighs the two t quantiles.
The p-value is that of the level at which this interval would end at zero.

Source: Cameron, Gelbach and Miller, Robust Inference With Multiway Clustering (2011), for V: that of seeds plus that of
clusters minus that of both, here of a mean; Cochran, Sampling Techniques (1977), chapter 6, for a mean over clusters of
unequal sizes as a ratio of totals. With one prompt a cluster it is V of Searle, Casella and McCulloch, Variance
Components (1992), chapter 4. Cochran and Cox, Experimental Designs (1957), section 4.14, for t'. Satterthwaite's
degrees of freedom in its place would cover 87 to 93 % at 2 and 3 seeds where both parts matter (a test keeps that
comparison); `coverage` beside this module simulates what t' covers. Holm, A Simple Sequentially Rejective Multiple Test
Procedure (1979), for what holds of several comparisons at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit  # what scipy.stats.t.ppf computes; that package takes three times as long to import

from bench.api import DataError

__all__ = [
    "LEVEL",
    "Interval",
    "Verdict",
    "crossed_interval",
    "detectable",
    "holm",
    "p_value",
    "paired_differences",
    "verdict",
]

LEVEL = 0.95
Verdict = Literal["better", "worse", "slightly better", "slightly worse", "tie", "undecided", "undecided (one seed)"]


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; `low`, `high` and the variances are NaN where none can be given.

    seed_variance, prompt_variance: the parts V_a and V_b of the squared standard error. seeds, clusters: the numbers of
    draws, of seeds and of what prompts state.
    """

    mean: float
    low: float
    high: float
    seed_variance: float
    prompt_variance: float
    seeds: int
    clusters: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.seed_variance + self.prompt_variance)


def crossed_interval(
    values: np.ndarray, level: float = LEVEL, fixed_seed: bool = False, clusters: np.ndarray | None = None
) -> Interval:
    """Interval of the mean of `values` (S, P): S seeds by P prompts, both random draws.

    fixed_seed: the single row is not a draw (the untouched base model); its interval is over prompts alone. One row
    that is a draw has no interval, nor has one cluster. clusters: labels (P,) of the prompts, alike where they state
    the same; None: all state other things. Raises DataError for non-finite or no values, other labels than prompts, or
    several rows of a fixed seed.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise DataError(f"expected finite scores of shape (seeds, prompts), none empty; got shape {values.shape}")
    seeds, prompts = values.shape
    labels = np.arange(prompts) if clusters is None else np.asarray(clusters)
    if labels.shape != (prompts,):
        raise DataError(f"expected a cluster for each of {prompts} prompts, got labels of shape {labels.shape}")
    if fixed_seed and seeds != 1:
        raise DataError(f"a model without seed has one row of scores, this one has {seeds}")
    mean, count = float(values.mean()), len(np.unique(labels))
    if count == 1 or (seeds == 1 and not fixed_seed):
        return Interval(mean, math.nan, math.nan, math.nan, math.nan, seeds, count)
    of_seeds, of_prompts = variance_parts(values, labels)
    whole = Interval(mean, math.nan, math.nan, of_seeds, of_prompts, seeds, count)
    half = _quantile(whole, 0.5 - level / 2) * whole.error
    return Interval(mean, mean - half, mean + half, of_seeds, of_prompts, seeds, count)


def variance_parts(values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """V_a and V_b of the module's docstring for values (S, P) with clusters `labels` (P,); of one row, V_a is zero."""
    seeds, prompts = values.shape
    mean, by_seed, by_prompt = values.mean(), values.mean(axis=1), values.mean(axis=0)
    shared = _cluster_sums(by_prompt - mean, labels)
    scale = len(shared) / ((len(shared) - 1) * prompts**2)
    of_shared = scale * float((shared**2).sum())
    if seeds == 1:
        return 0.0, of_shared
    noise = _cluster_sums(values - by_seed[:, None] - by_prompt[None, :] + mean, labels)
    of_noise = scale * float((noise**2).sum()) / (seeds * (seeds - 1))
    return float(by_seed.var(ddof=1)) / seeds, max(of_shared - of_noise, 0.0)


def _cluster_sums(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sums (..., G) of values (..., P) over the prompts of each cluster."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1))
    return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))


def paired_differences(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Differences (S, P) of two score tables on the same prompts, seed against seed.

    `method` is (S, P); `baseline` (S, P) with the same seeds in the same order, or (1, P) for a model without seed.
    Raises DataError for other shapes.
    """
    if method.shape[1] != baseline.shape[1] or baseline.shape[0] not in (1, method.shape[0]):
        raise DataError(f"cannot pair scores of shape {method.shape} with {baseline.shape}: (seeds, prompts) differ")
    return np.asarray(method, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)


def verdict(
    difference: Interval, margin: float | None, higher_is_better: bool = True, p: float | None = None
) -> Verdict:
    """A difference to the baseline in words; `p` is its p-value where it was corrected for others beside it.

    tie: the interval lies wholly inside +-margin (also where it excludes zero: too small to matter). better, worse: p
    is below .05 and the estimate beyond the margin; slightly so where it is inside. undecided: anything else. Without a
    margin nothing is a tie, and nothing slight.
    """
    if math.isnan(difference.low):
        return "undecided (one seed)" if difference.seeds == 1 else "undecided"
    if margin is not None and -margin <= difference.low and difference.high <= margin:
        return "tie"
    if (p_value(difference) if p is None else p) >= 1 - LEVEL:
        return "undecided"
    is_slight = margin is not None and abs(difference.mean) <= margin
    if (difference.mean > 0) == higher_is_better:
        return "slightly better" if is_slight else "better"
    return "slightly worse" if is_slight else "worse"


def p_value(difference: Interval) -> float:
    """Two-sided p-value (0 to 1) of no difference: below .05 just where the 95 % interval excludes zero.

    NaN where there is no interval.
    """
    if math.isnan(difference.error):
        return math.nan
    low, high = 0.0, 0.5  # of the tail beyond the mean, by bisection: t' falls as the tail grows
    for _ in range(60):
        tail = (low + high) / 2
        if _quantile(difference, tail) * difference.error < abs(difference.mean):
            high = tail
        else:
            low = tail
    return 2 * high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected by Holm's step-down rule, so that all that stay below .05 hold at once, in the same order."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = least
    return corrected


def detectable(difference: Interval, power: float = 0.8, level: float = LEVEL) -> float:
    """The smallest true difference whose interval would exclude zero with probability `power` at this variance.

    NaN where there is no interval.
    """
    if math.isnan(difference.error):
        return math.nan
    return (_quantile(difference, 0.5 - level / 2) + _quantile(difference, 1 - power)) * difference.error


def _quantile(interval: Interval, tail: float) -> float:
    """t' of the module's docstring, beyond which `tail` of the distribution lies."""
    of_prompts = -float(stdtrit(interval.clusters - 1, tail))
    if interval.seed_variance == 0.0:
        # all seeds agree exactly (or there is no seed): only prompts are left to vary
        return of_prompts
    of_seeds = -float(stdtrit(interval.seeds - 1, tail))
    share = interval.seed_variance / (interval.seed_variance + interval.prompt_variance)
    return share * of_seeds + (1 - share) * of_prompts
