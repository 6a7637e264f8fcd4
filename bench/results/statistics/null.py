"""How often these verdicts tell apart what is the same: halves of one method's seeds, compared as if they were two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.results.records.schema import BASE
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.intervals import Verdict, verdict
from bench.results.statistics.score_tables import paired, table_interval

__all__ = ["NullVerdicts", "null_verdicts"]

MOST = 20  # splits of one method's seeds, which share seeds and so are no independent draws


@dataclass(frozen=True)
class NullVerdicts:
    """Comparisons without a difference; `false` of them were told apart, seldom more than one in twenty should be."""

    comparisons: int
    false: int
    seeds: int  # of each half


def null_verdicts(analysis: Analysis) -> NullVerdicts | None:
    """Over all tasks and methods of an experiment, by each task's headline scorer; None without four seeds of any."""
    words, sizes = list[Verdict](), set[int]()
    for task in analysis.tasks:
        scorer = analysis.primary(task)
        higher, margin = analysis.info(scorer).higher_is_better, analysis.margin(task, scorer)
        for method in analysis.methods(task):
            table = analysis.scores(task, method, scorer) if method != BASE else pd.DataFrame()
            for first, second in _halves(len(table)):
                ours, theirs = (table.iloc[rows].reset_index(drop=True) for rows in (first, second))
                interval = table_interval(paired(ours, theirs, what=f"{task}: halves of {method}"))
                words.append(verdict(interval, margin, higher))
                sizes.add(len(first))
    false = sum(word.endswith(("better", "worse")) for word in words)
    return NullVerdicts(len(words), false, max(sizes)) if words else None


def _halves(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Splits of so many rows into two halves, drawn from one seed, each once; an odd row is left out."""
    size, random = count // 2, np.random.default_rng(0)
    if size < 2:
        return
    orders = (random.permutation(2 * size).tolist() for _ in range(MOST))
    firsts = {tuple(sorted(order[:size] if 0 in order[:size] else order[size:])) for order in orders}
    for first in sorted(firsts):
        yield list(first), [row for row in range(2 * size) if row not in first]
