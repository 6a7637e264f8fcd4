"""One figure as plain data: the text of the report depends on this data, never on pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from bench.canonical import canonical_json
from bench.results.figures.style import Form
from bench.results.records.schema import BASE
from bench.results.statistics.analysis import Analysis

__all__ = ["Figure", "headline_scorers", "rounded", "scorer_kind", "trained"]

SIGNIFICANT = 6


@dataclass(frozen=True)
class Figure:
    """One figure: `<name>.png` is drawn from `data`, which is stored beside it as `<name>.json`; SVG shows the same."""

    name: str
    title: str
    caption: str
    data: dict[str, Any]
    draw: Callable[[Form], bytes]

    @property
    def data_hash(self) -> str:
        """16 hex digits of the plotted data."""
        return blake2b(canonical_json(self.data).encode(), digest_size=8).hexdigest()


def rounded(value: Any) -> Any:
    """Floats cut to 6 significant digits, so that the last bits of another processor do not count."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.{SIGNIFICANT}g}")
    return value


def scorer_kind(analysis: Analysis, task: str, scorer: str) -> str:
    """`gold` or `proxy`, and whether the task trains on it or selects data by it."""
    info = analysis.task_info(task)
    used = ", used in training" if scorer in info.used else ""
    return ("gold" if analysis.info(scorer).gold else "proxy") + used


def headline_scorers(analysis: Analysis, task: str) -> list[str]:
    """The primary scorer and the training reward: what a task is about."""
    reward = analysis.task_info(task).reward
    names = [analysis.primary(task), *([reward] if reward in analysis.scorers(task) and reward else [])]
    proxies = [s for s in analysis.scorers(task) if analysis.info(s).pair == names[0]]
    return list(dict.fromkeys([*names, *proxies[:1]]))[:2]


def trained(analysis: Analysis, task: str) -> list[str]:
    """The finished methods of a task but the base."""
    return [method for method in analysis.methods(task) if method != BASE]
