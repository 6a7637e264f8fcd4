"""Two methods compared at the same number of optimiser updates, as far as their milestones allow.

The one that ended with fewer updates is taken at its end, the other at that milestone whose number is nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.results.statistics.analysis import REPORT, Analysis, Difference
from bench.results.statistics.score_tables import paired, pivoted, table_interval

__all__ = ["EqualUpdates", "at_equal_updates"]


@dataclass(frozen=True)
class EqualUpdates:
    """updates: of each method, from the fewest of a seed to the most. prompts: those that both milestones share."""

    difference: Difference
    updates: Mapping[str, tuple[int, int]]
    prompts: int


def at_equal_updates(analysis: Analysis, task: str, method: str, reference: str, scorer: str) -> EqualUpdates | None:
    """`method` minus `reference` over the seeds that both have; None where they share none, or no prompt."""
    rows = analysis.done_samples
    rows = rows[(rows["task"] == task) & (rows["split"] == REPORT) & rows[scorer].notna()]
    seeds = sorted(set(analysis.seeds(task, method)) & set(analysis.seeds(task, reference)))
    own = {name: rows[rows["method"] == name] for name in (method, reference)}
    found: dict[str, list[int]] = {method: [], reference: []}
    for seed in seeds:
        done = {name: sorted(of.loc[of["seed"] == seed, "update"].unique().tolist()) for name, of in own.items()}
        if not all(done.values()):
            return None
        fewest = min(of[-1] for of in done.values())
        for name, of in done.items():
            found[name].append(_nearest(of, fewest))
    if not seeds:
        return None
    ours, theirs = (_table(own[name], seeds, found[name], f"{task}/{name}", scorer) for name in (method, reference))
    shared = ours.columns.intersection(theirs.columns)
    if not len(shared):
        return None
    table = paired(ours[shared], theirs[shared], what=f"{task}: {method} and {reference} ({scorer})")
    interval = table_interval(table)
    updates = {name: (min(of), max(of)) for name, of in found.items()}
    return EqualUpdates(analysis.judged(task, method, reference, scorer, interval), updates, table.shape[1])


def _nearest(updates: Sequence[int], wanted: int) -> int:
    """The number whose ratio to the wanted one is nearest to 1, the larger of two."""
    return min(updates, key=lambda count: (abs(math.log(max(count, 1) / max(wanted, 1))), -count))


def _table(rows: pd.DataFrame, seeds: Sequence[int], updates: Sequence[int], what: str, scorer: str) -> pd.DataFrame:
    """Scores by seed, each after its own number of updates, on the prompts that all of them have."""
    kept = [
        rows[(rows["seed"] == seed) & (rows["update"] == count)] for seed, count in zip(seeds, updates, strict=True)
    ]
    shared = set.intersection(*(set(one["prompt_index"]) for one in kept))
    whole = pd.concat(kept)
    return pivoted(whole[whole["prompt_index"].isin(shared)], scorer, f"{what}: {scorer} at equal updates")
