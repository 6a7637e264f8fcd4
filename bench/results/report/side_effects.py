"""What else a method changed against the base, by more than the margin, under scorers that are not the headline's."""

from __future__ import annotations

from dataclasses import dataclass

from bench.results.records.schema import BASE
from bench.results.report.figures import headline_scorers
from bench.results.report.markdown import score_decimals, signed
from bench.results.statistics.analysis import Analysis, Difference

__all__ = ["SideEffect", "other_scorers", "side_effect_words", "side_effects"]


@dataclass(frozen=True)
class SideEffect:
    """One method minus the base under one scorer: an interval without zero, a mean beyond the margin."""

    method: str
    scorer: str
    gold: bool
    difference: Difference
    decimals: int

    @property
    def text(self) -> str:
        """`scenes-geneval -0.160 (gold)`."""
        change = signed(self.difference.interval.mean, self.decimals)
        return f"{self.scorer} {change} ({'gold' if self.gold else 'proxy'})"


def other_scorers(analysis: Analysis, task: str) -> list[str]:
    """The scorers of a task beside those of its headline, in its order."""
    headline = headline_scorers(analysis, task)
    return [scorer for scorer in analysis.scorers(task) if scorer not in headline]


def side_effects(analysis: Analysis, task: str) -> list[SideEffect]:
    """Method by method, gains and losses alike; none without a finished base."""
    found = []
    for method in analysis.methods(task):
        for scorer in other_scorers(analysis, task):
            row, margin = analysis.row(task, method, scorer), analysis.margin(task, scorer)
            change = row.differences.get(BASE) if row else None
            is_sure = change is not None and change.verdict in ("better", "worse")
            if change and is_sure and abs(change.interval.mean) > (margin or 0.0):
                info = analysis.info(scorer)
                found.append(SideEffect(method, scorer, info.gold, change, score_decimals(info, margin)))
    return found


def side_effect_words(analysis: Analysis, task: str) -> list[str]:
    """`flowgrpo: scenes-aesthetic +0.93 (gold), scenes-geneval -0.160 (gold)`, of the methods that have any."""
    by_method: dict[str, list[str]] = {}
    for effect in side_effects(analysis, task):
        by_method.setdefault(effect.method, []).append(effect.text)
    return [f"{method}: {', '.join(texts)}" for method, texts in by_method.items()]
