"""Intervals, verdicts and power for scores that vary over training seeds and over prompts.

All seeds are scored on the same prompts, so the spread over seeds does not show that other prompts would give other
numbers. Scores (or paired differences) follow a crossed random-effects model,

    y[s, p] = mean + a[s] + b[p] + e[s, p],      Var(mean of y) = Var(a)/S + Var(b)/P + Var(e)/(S P).

With the mean squares MS_a = P var(seed means), MS_b = S var(prompt means) and MS_e of the residuals, two parts

    V_a = MS_a / (S P)                    the variance over seeds divided by S; it holds the residual noise
    V_b = max(MS_b - MS_e, 0) / (S P)     the variance that is shared by all seeds, without that noise a second time

add up to V, and the interval is mean +- t' V^1/2, where t' = (V_a t[S-1] + V_b t[P-1]) / V weighs the two t quantiles.
Source: Searle, Casella and McCulloch, Variance Components (1992), chapter 4, for V; Cochran and Cox, Experimental
Designs (1957), section 4.14, for t'. Satterthwaite's degrees of freedom in its place would cover 87 to 93 % at 2 and 3
seeds where both parts matter (a test keeps that comparison); `coverage` beside this module simulates what t' covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit  # what scipy.stats.t.ppf computes; that package takes three times as long to import

from bench.api import DataError

__all__ = ["LEVEL", "Interval", "Verdict", "crossed_interval", "detectable", "paired_differences", "verdict"]

LEVEL = 0.95
Verdict = Literal["better", "worse", "tie", "undecided", "undecided (one seed)"]


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; `low`, `high` and the variances are NaN where none can be given.

    seed_variance, prompt_variance: the parts V_a and V_b of the squared standard error. seeds, prompts: their numbers.
    """

    mean: float
    low: float
    high: float
    seed_variance: float
    prompt_variance: float
    seeds: int
    prompts: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.seed_variance + self.prompt_variance)


def crossed_interval(values: np.ndarray, level: float = LEVEL, fixed_seed: bool = False) -> Interval:
    """Interval of the mean of `values` (S, P): S seeds by P prompts, both random draws.

    fixed_seed: the single row is not a draw (the untouched base model); its interval is over prompts alone. One row
    that is a draw has no interval. Raises DataError for non-finite or no values, or several rows of a fixed seed.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise DataError(f"expected finite scores of shape (seeds, prompts), none empty; got shape {values.shape}")
    seeds, prompts = values.shape
    if fixed_seed and seeds != 1:
        raise DataError(f"a model without seed has one row of scores, this one has {seeds}")
    mean = float(values.mean())
    if prompts == 1 or (seeds == 1 and not fixed_seed):
        return Interval(mean, math.nan, math.nan, math.nan, math.nan, seeds, prompts)
    of_seeds, of_prompts = (0.0, float(values.var(ddof=1)) / prompts) if fixed_seed else variance_parts(values)
    whole = Interval(mean, math.nan, math.nan, of_seeds, of_prompts, seeds, prompts)
    half = _quantile(whole, 0.5 + level / 2) * whole.error
    return Interval(mean, mean - half, mean + half, of_seeds, of_prompts, seeds, prompts)


def variance_parts(values: np.ndarray) -> tuple[float, float]:
    """V_a and V_b of the module's docstring for values (S, P) with S, P >= 2."""
    seeds, prompts = values.shape
    by_seed, by_prompt = values.mean(axis=1), values.mean(axis=0)
    residual = values - by_seed[:, None] - by_prompt[None, :] + values.mean()
    ms_seed = prompts * float(by_seed.var(ddof=1))
    ms_prompt = seeds * float(by_prompt.var(ddof=1))
    ms_noise = float((residual**2).sum()) / ((seeds - 1) * (prompts - 1))
    return ms_seed / (seeds * prompts), max(ms_prompt - ms_noise, 0.0) / (seeds * prompts)


def paired_differences(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Differences (S, P) of two score tables on the same prompts, seed against seed.

    `method` is (S, P); `baseline` (S, P) with the same seeds in the same order, or (1, P) for a model without seed.
    Raises DataError for other shapes.
    """
    if method.shape[1] != baseline.shape[1] or baseline.shape[0] not in (1, method.shape[0]):
        raise DataError(f"cannot pair scores of shape {method.shape} with {baseline.shape}: (seeds, prompts) differ")
    return np.asarray(method, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)


def verdict(difference: Interval, margin: float | None, higher_is_better: bool = True) -> Verdict:
    """A difference to the baseline in words.

    tie: the interval lies wholly inside +-margin (also where it excludes zero: too small to matter). better, worse: it
    excludes zero. undecided: anything else. Without a margin nothing is a tie.
    """
    if math.isnan(difference.low):
        return "undecided (one seed)" if difference.seeds == 1 else "undecided"
    if margin is not None and -margin <= difference.low and difference.high <= margin:
        return "tie"
    low, high = (difference.low, difference.high) if higher_is_better else (-difference.high, -difference.low)
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"


def detectable(difference: Interval, power: float = 0.8, level: float = LEVEL) -> float:
    """The smallest true difference whose interval would exclude zero with probability `power` at this variance.

    NaN where there is no interval.
    """
    if math.isnan(difference.error):
        return math.nan
    return (_quantile(difference, 0.5 + level / 2) + _quantile(difference, power)) * difference.error


def _quantile(interval: Interval, probability: float) -> float:
    """t' of the module's docstring."""
    of_prompts = float(stdtrit(interval.prompts - 1, probability))
    if interval.seed_variance == 0.0:
        # all seeds agree exactly (or there is no seed): only prompts are left to vary
        return of_prompts
    of_seeds = float(stdtrit(interval.seeds - 1, probability))
    share = interval.seed_variance / (interval.seed_variance + interval.prompt_variance)
    return share * of_seeds + (1 - share) * of_prompts
