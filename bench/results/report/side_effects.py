"""What else a method changed against the base, by more than the margin, under scorers that are not the headline's."""

from __future__ import annotations

from dataclasses import dataclass

from bench.results.records.schema import BASE
from bench.results.report.figure import headline_scorers
from bench.results.report.markdown import signed
from bench.results.report.words import scorer_decimals
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
            row = analysis.row(task, method, scorer)
            change = row.differences.get(BASE) if row else None
            if change and change.verdict in ("better", "worse"):  # of a method that did not learn too
                decimals = scorer_decimals(analysis, task, scorer)
                found.append(SideEffect(method, scorer, analysis.info(scorer).gold, change, decimals))
    return found


def side_effect_words(analysis: Analysis, task: str) -> list[str]:
    """`flowgrpo: scenes-aesthetic +0.93 (gold), scenes-geneval -0.160 (gold)`, of the methods that have any."""
    by_method: dict[str, list[str]] = {}
    for effect in side_effects(analysis, task):
        by_method.setdefault(effect.method, []).append(effect.text)
    return [f"{method}: {', '.join(texts)}" for method, texts in by_method.items()]
