"""Scores at the end over guidance scales and step counts, of an experiment's finished cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bench.results.statistics.score_tables import pivoted

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Answers about the rows of the grid files."""

    rows: pd.DataFrame
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def settings(self, task: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Guidance scales and step counts, both rising; empty where there is no grid."""
        if task not in self._cache:
            own = self.rows[self.rows["task"] == task]
            scales = sorted({round(float(value), 6) for value in own["guidance"].unique()})
            self._cache[task] = tuple(scales), tuple(sorted({int(value) for value in own["steps"].unique()}))
        found: tuple[tuple[float, ...], tuple[int, ...]] = self._cache[task]
        return found

    def means(self, task: str, scorer: str) -> dict[tuple[str, float, int], float]:
        """Mean score over seeds and prompts by (method, guidance scale, steps)."""
        if scorer not in self.rows:
            return {}
        own = self.rows[self.rows["task"] == task].dropna(subset=[scorer])
        means = own.groupby(["method", own["guidance"].astype(float).round(6), "steps"])[scorer].mean()
        return {(str(m), float(scale), int(steps)): float(mean) for (m, scale, steps), mean in means.items()}

    def scores(self, task: str, method: str, scorer: str, guidance: float, steps: int) -> pd.DataFrame:
        """A table of scores (`pivoted`) at one point, NaN where a picture was not judged; empty where there is none."""
        key = (task, method, scorer, f"{guidance:g} x {steps}")
        if key not in self._cache:
            if scorer not in self.rows:
                return pd.DataFrame()
            here = np.isclose(self.rows["guidance"], guidance) & (self.rows["steps"] == steps)
            own = self.rows[here & (self.rows["task"] == task) & (self.rows["method"] == method)]
            own = own if own[scorer].notna().any() else own.iloc[:0]
            self._cache[key] = pivoted(own, scorer, f"{task}/{method}: {scorer} in the grid")
        found: pd.DataFrame = self._cache[key]
        return found
