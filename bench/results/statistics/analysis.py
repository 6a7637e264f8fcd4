"""From the frames of an experiment to comparisons with intervals and verdicts.

Only finished cells count, each at its last milestone. `base` is the untouched model: one row of scores, no seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bench.api import DataError
from bench.budget import UNITS
from bench.config.prompt_set import set_split
from bench.results.records.reader import KEYS, ExperimentResults
from bench.results.records.schema import BASE, PromptSetScores, ScorerInfo, TaskInfo
from bench.results.statistics.intervals import (
    Interval,
    Verdict,
    crossed_interval,
    detectable,
    paired_differences,
    verdict,
)

__all__ = ["ALIKE", "FEW_UPDATES", "Analysis", "Difference", "Run", "ScoreRow"]

FEW_UPDATES = 50
REPORT = "report"
ALIKE = "*"  # in the place of a category: all of them, each with the same weight


@dataclass(frozen=True)
class Difference:
    """A method minus a baseline on the same prompts. detectable: what this design would have seen, power 0.8."""

    baseline: str
    interval: Interval
    verdict: Verdict
    detectable: float


@dataclass(frozen=True)
class ScoreRow:
    """One method under one scorer, with its differences by baseline."""

    task: str
    method: str
    scorer: str
    mean: Interval
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Run:
    """One cell's curve: `x[unit]` (M,) and the mean scores `y` (M,) on the `prompts` that all milestones share."""

    method: str
    seed: int
    prompts: int
    x: Mapping[str, tuple[float, ...]]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Analysis:
    """Comparisons within one experiment; every answer comes from its record files alone."""

    experiment: ExperimentResults
    _cache: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with at least one finished cell, in the order of the experiment."""
        return tuple(task for task in self._all_tasks if self.methods(task))

    @cached_property
    def _all_tasks(self) -> tuple[str, ...]:
        found = [cell.header.task for cell in self.experiment.results]
        return tuple(dict.fromkeys([*self.experiment.header.tasks, *sorted(found)]))

    @cached_property
    def _done(self) -> pd.DataFrame:
        cells = self.experiment.cells
        return cells[cells["status"] == "done"] if len(cells) else cells

    @cached_property
    def is_tuning(self) -> bool:
        """Whether all scores are of tuning prompts, which no reported number may use."""
        return REPORT not in set(self.experiment.samples["split"])

    def methods(self, task: str) -> tuple[str, ...]:
        """Methods with finished cells of this task: base first, then in the order of the experiment."""
        found = {method for done_task, method in self._done_seeds if done_task == task}
        order = [BASE, *self.experiment.header.methods, *sorted(found)]
        return tuple(method for method in dict.fromkeys(order) if method in found)

    def seeds(self, task: str, method: str) -> tuple[int, ...]:
        """Seeds whose cells are finished, sorted."""
        return tuple(sorted(self._done_seeds[(task, method)]))

    @cached_property
    def _done_seeds(self) -> dict[tuple[str, str], list[int]]:
        heads = [cell.header for cell in self.experiment.results if cell.status == "done"]
        found: dict[tuple[str, str], list[int]] = {}
        for head in heads:
            found.setdefault((head.task, head.method), []).append(head.seed)
        return found

    def updates(self, task: str, method: str) -> int:
        """The fewest optimiser updates of any finished seed."""
        return self._updates[task, method]

    @cached_property
    def _updates(self) -> dict[tuple[str, str], int]:
        fewest = self._done.groupby(["task", "method"])["updates"].min()
        return {(str(task), str(method)): int(updates) for (task, method), updates in fewest.items()}

    def few_updates(self, task: str, method: str) -> bool:
        """Whether a method (not the base) got fewer than 50 updates: every table marks it."""
        return method != BASE and self.updates(task, method) < FEW_UPDATES

    def baseline(self, task: str) -> str:
        """What differences are taken to: the configured method where it has finished, else the base."""
        methods = self.methods(task)
        return next((name for name in (self.experiment.header.baseline, BASE) if name in methods), methods[0])

    def baselines(self, task: str) -> tuple[str, ...]:
        """The baseline, and the base where it is another one."""
        names = (self.baseline(task), *([BASE] if BASE in self.methods(task) else []))
        return tuple(dict.fromkeys(names))

    def task_info(self, task: str) -> TaskInfo:
        """What experiment.json says about a task."""
        return self.experiment.header.tasks.get(task, TaskInfo())

    def info(self, scorer: str) -> ScorerInfo:
        """What experiment.json says about a scorer; raises DataError where it says nothing."""
        known = self.experiment.header.scorers
        if scorer not in known:
            raise DataError(
                f"{self.experiment.folder}/experiment.json does not describe scorer {scorer!r} (gold? margin?): "
                f"it knows {', '.join(known) or 'none'}"
            )
        return known[scorer]

    def margin(self, task: str, scorer: str) -> float | None:
        """Differences within +-margin are a tie; None where none was stated before the run."""
        return self.task_info(task).margins.get(scorer, self.info(scorer).margin)

    def scorers(self, task: str) -> tuple[str, ...]:
        """Scorers with scores in this task: what it is about first, each gold one followed by its proxies."""
        found = self._judges.get(task, ())
        task_info = self.task_info(task)
        used = {*task_info.used, *([task_info.primary] if task_info.primary else [])}
        used |= {pair for name in used if name in found and (pair := self.info(name).pair)}

        def key(name: str) -> tuple[bool, str, bool, str]:
            leader = self.info(name).pair or name
            return leader not in used, leader, name != leader, name

        return tuple(sorted(found, key=key))

    @cached_property
    def _judges(self) -> dict[str, list[str]]:
        """The scorers with final scores, by task."""
        counts = self._finals().groupby("task")[list(self.experiment.scorers)].count()
        return {str(task): [str(name) for name in counts.columns[row > 0]] for task, row in counts.iterrows()}

    def primary(self, task: str) -> str:
        """The headline's scorer: as configured, else the gold one that the reward stands for, else the first."""
        scorers = self.scorers(task)
        return self.experiment.header.primary(task, scorers) or scorers[0]

    def categories(self, task: str, scorer: str, split: str = REPORT) -> tuple[str, ...]:
        """Prompt categories that a scorer applies to, sorted."""
        tables = [self.scores(task, method, scorer, split) for method in self.methods(task)]
        return tuple(sorted({name for table in tables if table.size for name, _ in table.columns}))

    @cached_property
    def _final_by_cell(self) -> dict[tuple[Any, ...], pd.DataFrame]:
        """Final rows of finished cells, and those of their prompt sets, by task, method and split."""
        frames = [frame for frame in (self._finals(), self._of_done(self.experiment.sets)) if len(frame)]
        return {key: rows for frame in frames for key, rows in frame.groupby(["task", "method", "split"])}

    def prompt_sets(self, task: str) -> dict[str, PromptSetScores]:
        """The prompt sets that judged a task, by their name in the column `split`, as the base's record has them."""
        cells = [c for c in self.experiment.results if c.header.task == task and c.status == "done"]
        cells.sort(key=lambda cell: cell.header.method != BASE)
        return {set_split(one.name): one for cell in cells[:1] for one in cell.sets}

    def _finals(self) -> pd.DataFrame:
        """Samples of the last milestone of every finished cell."""
        kept = self._done_samples
        return kept[kept["update"] == kept.groupby(KEYS)["update"].transform("max")] if len(kept) else kept

    @cached_property
    def _done_samples(self) -> pd.DataFrame:
        return self._of_done(self.experiment.samples)

    def _of_done(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of finished cells."""
        heads = [cell.header for cell in self.experiment.results if cell.status != "done"]
        for head in heads if len(frame) else ():
            is_other = (frame["task"] != head.task) | (frame["method"] != head.method) | (frame["seed"] != head.seed)
            frame = frame[is_other]
        return frame

    def scores(self, task: str, method: str, scorer: str, split: str = REPORT) -> pd.DataFrame:
        """Final scores, one row a seed, one column a prompt (a (category, prompt index) pair); empty where none.

        `split` is one of the world, or that of a prompt set. All methods of a task are judged on the same prompts: one
        is left out where the scorer abstained from any of its pictures.

        Raises DataError where a prompt was sampled under some seeds only.
        """
        key = (task, method, scorer, split)
        if key not in self._cache:
            tables = {name: self._sampled(task, name, scorer, split) for name in self.methods(task)}
            table = tables.get(method, pd.DataFrame())
            for other in tables.values() if table.size else ():
                unjudged = other.columns[other.isna().any(axis=0)] if other.size else []
                table = table.loc[:, ~table.columns.isin(unjudged)] if len(unjudged) else table
            self._cache[key] = table
        return self._cache[key]

    def _sampled(self, task: str, method: str, scorer: str, split: str) -> pd.DataFrame:
        """As `scores`, NaN where a picture was not judged."""
        key = ("sampled", task, method, scorer, split)
        if key not in self._cache:
            rows = self._final_by_cell.get((task, method, split), pd.DataFrame())
            if scorer not in rows or rows[scorer].isna().all():
                rows = rows.iloc[:0]
            self._cache[key] = _pivot(rows, scorer, f"{task}/{method}: {scorer} ({split})")
        return self._cache[key]

    def grid_settings(self, task: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Guidance scales and step counts of the grid at the end, both rising; empty where there is none."""
        if ("grid", task) not in self._cache:
            grid = self.experiment.grid
            rows = grid[grid["task"] == task]
            scales = sorted({round(float(value), 6) for value in rows["guidance"].unique()})
            self._cache["grid", task] = tuple(scales), tuple(sorted({int(value) for value in rows["steps"].unique()}))
        return self._cache["grid", task]

    def grid_means(self, task: str, scorer: str) -> dict[tuple[str, float, int], float]:
        """Mean score over seeds and prompts by (method, guidance scale, steps)."""
        rows = self._done_grid
        if scorer not in rows:
            return {}
        rows = rows[rows["task"] == task].dropna(subset=[scorer])
        means = rows.groupby(["method", rows["guidance"].astype(float).round(6), "steps"])[scorer].mean()
        return {(str(m), float(scale), int(steps)): float(mean) for (m, scale, steps), mean in means.items()}

    def grid_scores(self, task: str, method: str, scorer: str, guidance: float, steps: int) -> pd.DataFrame:
        """Like `scores`, at one point of the grid."""
        key = (task, method, scorer, f"{guidance:g} x {steps}")
        if key not in self._cache:
            rows = self._done_grid
            if scorer not in rows:
                return pd.DataFrame()
            here = np.isclose(rows["guidance"], guidance) & (rows["steps"] == steps)
            rows = rows[here & (rows["task"] == task) & (rows["method"] == method)]
            self._cache[key] = _pivot(rows.dropna(subset=[scorer]), scorer, f"{task}/{method}: {scorer} in the grid")
        return self._cache[key]

    @cached_property
    def _done_grid(self) -> pd.DataFrame:
        return self._of_done(self.experiment.grid)

    def row(
        self, task: str, method: str, scorer: str, split: str = REPORT, category: str | None = None
    ) -> ScoreRow | None:
        """Mean and differences of one method under one scorer; None where it has no scores.

        `category` is one, `ALIKE` for the mean of their means, or None for the mean over prompts.
        """
        key = ("row", task, method, scorer, split, category)
        if key not in self._cache:
            self._cache[key] = self._row(task, method, scorer, split, category)
        return self._cache[key]

    def _row(self, task: str, method: str, scorer: str, split: str, category: str | None) -> ScoreRow | None:
        table = _only(self.scores(task, method, scorer, split), category)
        if not table.size:
            return None
        mean = crossed_interval(table.to_numpy(), fixed_seed=method == BASE)
        names = [name for name in self.baselines(task) if name != method and method != BASE]
        found = {name: self.difference(task, method, name, scorer, split, category) for name in names}
        return ScoreRow(task, method, scorer, mean, {name: item for name, item in found.items() if item})

    def difference(
        self, task: str, method: str, baseline: str, scorer: str, split: str = REPORT, category: str | None = None
    ) -> Difference | None:
        """`method` (not the base) minus `baseline` over the seeds that both have; None where they share none.

        Raises DataError where the two were scored on different prompts.
        """
        ours = _only(self.scores(task, method, scorer, split), category)
        theirs = _only(self.scores(task, baseline, scorer, split), category)
        if baseline != BASE:
            shared = ours.index.intersection(theirs.index)
            ours, theirs = ours.loc[shared], theirs.loc[shared]
        if not ours.size or not theirs.size:
            return None
        if not ours.columns.equals(theirs.columns):
            raise DataError(f"{task}: {method} and {baseline} were scored by {scorer} on different prompts ({split})")
        interval = crossed_interval(paired_differences(ours.to_numpy(), theirs.to_numpy()))
        info = self.info(scorer)
        word = verdict(interval, self.margin(task, scorer), info.higher_is_better)
        return Difference(baseline, interval, word, detectable(interval))

    def rows(self, task: str, split: str = REPORT) -> list[ScoreRow]:
        """All methods under all scorers of a task, scorer by scorer."""
        found = [self.row(task, m, scorer, split) for scorer in self.scorers(task) for m in self.methods(task)]
        return [row for row in found if row is not None]

    def comparisons(self) -> int:
        """How many differences the main tables judge, all tasks, prompt sets and scorers together."""
        rows = [row for task in self.tasks for row in self.rows(task)]
        for task in self.tasks:
            judged = [(split, scorer) for split, one in self.prompt_sets(task).items() for scorer in one.scores]
            found = [self.row(task, method, scorer, split) for split, scorer in judged for method in self.methods(task)]
            rows += [row for row in found if row is not None]
        return sum(len(row.differences) for row in rows)

    def curves(self, task: str, scorer: str) -> list[Run]:
        """Mean score along the budget of every finished cell, the base as its start, on the prompts all share."""
        key = ("curves", task, scorer)
        if key not in self._cache:
            self._cache[key] = self._curves(task, scorer)
        return self._cache[key]

    def _curves(self, task: str, scorer: str) -> list[Run]:
        samples, cells = self._done_samples, ["method", "seed", "update"]
        is_wanted = (samples["task"] == task) & (samples["split"] == REPORT) & samples[scorer].notna()
        rows = samples.loc[is_wanted, [*cells, "prompt_index", scorer]]
        times = rows.groupby("prompt_index").size()
        shared = rows[rows["prompt_index"].isin(times.index[times == rows.groupby(cells).ngroups])]
        means: dict[tuple[str, int], dict[int, float]] = {}
        for (method, seed, update), mean in shared.groupby(cells)[scorer].mean().items():
            means.setdefault((method, seed), {})[update] = float(mean)
        start = means.get((BASE, 0), {}).get(0)
        prompts = int(shared["prompt_index"].nunique())
        marks = self.experiment.milestones
        spent = marks[marks["task"] == task].set_index(cells)[list(UNITS)].to_dict("index")
        runs = []
        for method in self.methods(task):
            for seed in self.seeds(task, method) if method != BASE else ():
                if (method, seed) not in means:
                    continue  # the scorer applies to none of the shared prompts
                runs.append(_run(method, seed, prompts, means[method, seed], spent, start))
        return runs


def _run(
    method: str, seed: int, prompts: int, means: Mapping[int, float], spent: Mapping[Any, Mapping[str, float]],
    start: float | None,
) -> Run:  # fmt: skip
    x = {unit: [float(spent[(method, seed, update)][unit]) for update in means] for unit in UNITS}
    y = list(means.values())
    if start is not None and 0 not in means:
        x, y = {unit: [0.0, *values] for unit, values in x.items()}, [start, *y]
    return Run(method, seed, prompts, {unit: tuple(values) for unit, values in x.items()}, tuple(y))


def _only(table: pd.DataFrame, category: str | None) -> pd.DataFrame:
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


def _pivot(rows: pd.DataFrame, scorer: str, what: str) -> pd.DataFrame:
    """Scores (S, P) by seed and by (category, prompt index), both sorted.

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
    columns = pd.MultiIndex.from_arrays([categories, pairs % span], names=["category", "prompt_index"])
    return pd.DataFrame(table, index=pd.Index(seeds, name="seed"), columns=columns, copy=False)
