"""Tables of final scores: one row a seed, one column a prompt, which knows its category, its index and its cluster."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.api import DataError
from bench.results.records.schema import CLUSTER
from bench.results.statistics.intervals import Interval, crossed_interval, paired_differences

__all__ = ["ALIKE", "of_category", "paired", "pivoted", "table_interval"]

ALIKE = "*"  # in the place of a category: all of them, each with the same weight


def table_interval(table: pd.DataFrame, *, fixed_seed: bool = False) -> Interval:
    """The interval of the mean of a table, whose prompts are drawn by cluster; see `crossed_interval`."""
    return crossed_interval(
        table.to_numpy(), fixed_seed=fixed_seed, clusters=table.columns.get_level_values(CLUSTER).to_numpy()
    )


def paired(ours: pd.DataFrame, theirs: pd.DataFrame, *, what: str, has_seeds: bool = True) -> pd.DataFrame:
    """`ours` minus `theirs` over the seeds that both have, or from the one row of what has no seeds; empty for none.

    Prompts that were not judged in all rows of both are left out. Raises DataError where the two were scored on other
    prompts.
    """
    if has_seeds and ours.size and theirs.size:
        shared = ours.index.intersection(theirs.index)
        ours, theirs = ours.loc[shared], theirs.loc[shared]
    if not ours.size or not theirs.size:
        return pd.DataFrame()
    if not ours.columns.equals(theirs.columns):
        raise DataError(f"{what} were scored on different prompts")
    table = pd.DataFrame(paired_differences(ours.to_numpy(), theirs.to_numpy()), ours.index, ours.columns)
    return table.loc[:, table.notna().all()]


def of_category(table: pd.DataFrame, category: str | None) -> pd.DataFrame:
    """The prompts of one category, or all; with `ALIKE` scaled so that their mean is the mean of the categories' means.

    Then its interval holds the spread between categories too, as if they were drawn: wider than it has to be.
    """
    if category is None or not table.size:
        return table
    if category == ALIKE:
        names = table.columns.get_level_values(0)
        sizes = names.value_counts()
        return table * [table.shape[1] / (len(sizes) * sizes[name]) for name in names]
    return table.loc[:, table.columns.get_level_values(0) == category]


def pivoted(rows: pd.DataFrame, scorer: str, what: str) -> pd.DataFrame:
    """Scores (S, P) by seed and by (category, prompt index, cluster), both sorted.

    As `unstack` has it, without its detours. Raises DataError where one is missing or there twice, or a seed has none.
    """
    if not len(rows):
        return pd.DataFrame()
    row, seeds = pd.factorize(rows["seed"], sort=True)
    prompt = rows["prompt_index"].to_numpy(dtype=np.int64)
    span = int(prompt.max()) + 1
    column, pairs = pd.factorize(rows["category"].cat.codes.to_numpy(dtype=np.int64) * span + prompt, sort=True)
    times = np.bincount(row * len(pairs) + column, minlength=len(seeds) * len(pairs))
    if times.max() > 1:
        raise DataError(f"{what}: a prompt was scored twice at the same update")
    scores = rows[scorer].to_numpy()
    table = np.full((len(seeds), len(pairs)), np.nan, scores.dtype)
    table[row, column] = scores
    if times.min() == 0 or np.isinf(scores).any() or np.isnan(table).all(1).any():
        raise DataError(f"{what}: not every seed was scored on the same prompts")
    categories = rows["category"].cat.categories.take(pairs // span)
    clusters = np.empty(len(pairs), np.int64)
    clusters[column] = rows[CLUSTER].to_numpy()
    columns = pd.MultiIndex.from_arrays(
        [categories, pairs % span, clusters], names=["category", "prompt_index", CLUSTER]
    )
    return pd.DataFrame(table, index=pd.Index(seeds, name="seed"), columns=columns, copy=False)
