"""Two methods at the same number of optimiser updates, as far as their milestones allow.

The one that ended with fewer updates is taken at its end, the other at that milestone whose number is nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.results.statistics.analysis import REPORT, Analysis
from bench.results.statistics.score_tables import pivoted

__all__ = ["EqualUpdates", "at_equal_updates"]


@dataclass(frozen=True)
class EqualUpdates:
    """By method its scores, on the prompts that both have, and its updates, from the fewest of a seed to the most."""

    scores: Mapping[str, pd.DataFrame]
    updates: Mapping[str, tuple[int, int]]


def at_equal_updates(analysis: Analysis, task: str, pair: Sequence[str], scorer: str) -> EqualUpdates | None:
    """Two methods over the seeds that both have; None where they share none, or no prompt."""
    rows = analysis.done_samples
    rows = rows[(rows["task"] == task) & (rows["split"] == REPORT) & rows[scorer].notna()]
    own = {name: rows[rows["method"] == name] for name in pair}
    seeds = sorted(set.intersection(*(set(of["seed"]) for of in own.values())))
    found: dict[str, list[int]] = {name: [] for name in pair}
    for seed in seeds:
        done = {name: sorted(of.loc[of["seed"] == seed, "update"].unique().tolist()) for name, of in own.items()}
        fewest = min(of[-1] for of in done.values())
        for name, of in done.items():
            found[name].append(_nearest(of, fewest))
    if not seeds:
        return None
    tables = {name: _table(of, seeds, found[name], f"{task}/{name}", scorer) for name, of in own.items()}
    first, second = tables.values()
    shared = first.columns.intersection(second.columns)
    if not len(shared):
        return None
    updates = {name: (min(of), max(of)) for name, of in found.items()}
    return EqualUpdates({name: table[shared] for name, table in tables.items()}, updates)


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
