"""Proxy against gold: does what training sees rise more than what it stands for?

Scores have different scales, so gains over the base are divided by the standard deviation of the base's scores over
prompts. An honest but imperfect proxy may gain more than gold or less; the warning sign is a proxy that rises while
gold falls.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.results.records.schema import BASE
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.intervals import Interval, crossed_interval

__all__ = ["Gain", "gain_paths", "proxy_gains", "proxy_gold_pairs"]


@dataclass(frozen=True)
class Gain:
    """Gains over the base in its standard deviations; `excess` is proxy minus gold, prompt by prompt."""

    task: str
    method: str
    proxy: str
    gold: str
    proxy_gain: Interval
    gold_gain: Interval
    excess: Interval

    @property
    def words(self) -> str:
        """What the three intervals say."""
        if self.proxy_gain.low > 0 and self.gold_gain.high < 0:
            return "reward hacking: the proxy rises, gold falls"
        if self.excess.low > 0:
            return "the proxy gains more than gold"
        if self.excess.high < 0:
            return "gold gains more than the proxy"
        return "one seed: no interval" if np.isnan(self.excess.low) else "no excess shown"


def proxy_gold_pairs(analysis: Analysis, task: str) -> list[tuple[str, str]]:
    """(proxy, gold) pairs of a task of which one member trains or selects; all pairs where none does."""
    scorers, info = analysis.scorers(task), analysis.task_info(task)
    found = [(name, pair) for name in scorers if (pair := analysis.info(name).pair) in scorers and pair]
    used = [pair for pair in found if info.used & set(pair)]
    return used or found


def proxy_gains(analysis: Analysis, task: str) -> list[Gain]:
    """One entry for every pair and every method of a task; none without a finished base."""
    found = []
    for proxy, gold in proxy_gold_pairs(analysis, task) if BASE in analysis.methods(task) else ():
        for method in analysis.methods(task):
            if method != BASE:
                found.append(_gain(analysis, task, method, proxy, gold))
    return [gain for gain in found if gain is not None]


def _gain(analysis: Analysis, task: str, method: str, proxy: str, gold: str) -> Gain | None:
    standard = {}
    for scorer in (proxy, gold):
        base, ours = analysis.scores(task, BASE, scorer), analysis.scores(task, method, scorer)
        if not base.size or not ours.size or _deviation(base.to_numpy()) == 0:
            return None
        sign = 1 if analysis.info(scorer).higher_is_better else -1
        standard[scorer] = sign * (ours - base.to_numpy()) / _deviation(base.to_numpy())
    shared = standard[proxy].columns.intersection(standard[gold].columns)
    a, b = (standard[scorer][shared].to_numpy() for scorer in (proxy, gold))
    return Gain(task, method, proxy, gold, crossed_interval(a), crossed_interval(b), crossed_interval(a - b))


def gain_paths(analysis: Analysis, task: str) -> list[dict[str, Any]]:
    """Panels for the figure: mean gains over seeds at every milestone, from the base on."""
    panels = []
    for proxy, gold in proxy_gold_pairs(analysis, task) if BASE in analysis.methods(task) else ():
        spread = {name: _deviation(analysis.scores(task, BASE, name).to_numpy()) for name in (proxy, gold)}
        if 0 in spread.values():
            continue
        lines: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for name in (proxy, gold):
            sign = 1 if analysis.info(name).higher_is_better else -1
            for run in analysis.curves(task, name):
                lines[run.method][name].append(sign * (np.array(run.y) - run.y[0]) / spread[name])
        shown = []
        for method, curves in lines.items():
            if len({len(curve) for curve in curves[proxy] + curves[gold]}) == 1:
                mean = {name: np.mean(curves[name], axis=0).tolist() for name in (proxy, gold)}
                shown.append({"method": method, "proxy": mean[proxy], "gold": mean[gold]})
        panels.append({"task": task, "proxy": proxy, "gold": gold, "paths": shown})
    return panels


def _deviation(scores: np.ndarray) -> float:
    """Standard deviation over prompts (and seeds) of scores (S, P)."""
    return float(scores.std(ddof=1)) if scores.size > 1 else 0.0
