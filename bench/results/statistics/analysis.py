"""From the frames of an experiment to comparisons with intervals and verdicts.

Only finished cells count, each at its last milestone. `base` is the untouched model: one row of scores, no seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from bench.api import DataError
from bench.config.prompt_set import set_split
from bench.results.records.reader import KEYS, ExperimentResults
from bench.results.records.schema import BASE, PromptSetScores, ScorerInfo, TaskInfo
from bench.results.statistics.curves import Run, curves_of
from bench.results.statistics.grid import Grid
from bench.results.statistics.intervals import Interval, Verdict, detectable, verdict
from bench.results.statistics.score_tables import of_category, paired, pivoted, table_interval

__all__ = ["DID_NOT_LEARN", "FEW_UPDATES", "Analysis", "Difference", "ScoreRow"]

FEW_UPDATES = 50
DID_NOT_LEARN = "did not learn"
REPORT = "report"


@dataclass(frozen=True)
class Difference:
    """A method minus a baseline on the same prompts. detectable: what this design would have seen, power 0.8.

    learned: whether what the method optimises is not known to have stayed where it was (`Analysis.did_not_learn`).
    """

    baseline: str
    interval: Interval
    verdict: Verdict
    detectable: float
    learned: bool = True

    @property
    def word(self) -> str:
        """The verdict, which a method that did not learn has none of."""
        return self.verdict if self.learned else DID_NOT_LEARN


@dataclass(frozen=True)
class ScoreRow:
    """One method under one scorer, with its differences by baseline."""

    task: str
    method: str
    scorer: str
    mean: Interval
    differences: Mapping[str, Difference]


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
        return tuple(sorted({name for table in tables if table.size for name in table.columns.get_level_values(0)}))

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
        kept = self.done_samples
        return kept[kept["update"] == kept.groupby(KEYS)["update"].transform("max")] if len(kept) else kept

    @cached_property
    def done_samples(self) -> pd.DataFrame:
        """The samples of finished cells, of all milestones."""
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
            self._cache[key] = pivoted(rows, scorer, f"{task}/{method}: {scorer} ({split})")
        return self._cache[key]

    def scores_at(self, task: str, method: str, scorer: str, guidance: float | None = None) -> pd.DataFrame:
        """Final scores at a guidance scale, None for that of the evaluation; empty where the grid lacks it.

        With the evaluation's number of steps; at its own scale these are `scores`, else the grid's, on fewer prompts.
        """
        used, steps = self.sampling(task)
        if guidance is None or abs(guidance - used) < 1e-6:
            return self.scores(task, method, scorer)
        return self.grid.scores(task, method, scorer, guidance, steps)

    def sampling(self, task: str) -> tuple[float, int]:
        """Guidance scale and step count of a task's evaluation."""
        marks = self.experiment.milestones
        first = marks[marks["task"] == task].iloc[0]
        return float(first["guidance"]), int(first["steps"])

    @cached_property
    def grid(self) -> Grid:
        """The scores over guidance and steps at the end."""
        return Grid(self._of_done(self.experiment.grid))

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
        table = of_category(self.scores(task, method, scorer, split), category)
        if not table.size:
            return None
        mean = table_interval(table, fixed_seed=method == BASE)
        names = [name for name in self.baselines(task) if name != method and method != BASE]
        found = {name: self.difference(task, method, name, scorer, split, category) for name in names}
        return ScoreRow(task, method, scorer, mean, {name: item for name, item in found.items() if item})

    def difference(
        self, task: str, method: str, baseline: str, scorer: str, split: str = REPORT, category: str | None = None
    ) -> Difference | None:
        """`method` (not the base) minus `baseline` over the seeds that both have; None where they share none.

        Raises DataError where the two were scored on different prompts.
        """
        of = [of_category(self.scores(task, name, scorer, split), category) for name in (method, baseline)]
        what = f"{task}: {method} and {baseline} ({scorer}, {split})"
        table = paired(*of, what=what, has_seeds=baseline != BASE)
        if not table.size:
            return None
        return self.judged(task, method, baseline, scorer, table_interval(table))

    def judged(
        self, task: str, method: str, baseline: str, scorer: str, interval: Interval, guidance: float | None = None,
        *, is_loss: bool = False,
    ) -> Difference:  # fmt: skip
        """An interval of `method` minus `baseline` under a scorer, or of what each loses by it, with its verdict."""
        word = verdict(interval, self.margin(task, scorer), self.info(scorer).higher_is_better != is_loss)
        return Difference(
            baseline, interval, word, detectable(interval), not self.did_not_learn(task, method, guidance)
        )

    def optimises(self, task: str, method: str) -> str | None:
        """The scorer that a method met in training, as its ledger has it: its reward, else what chose its data."""
        cells, info = self._done, self.task_info(task)
        own = cells[(cells["task"] == task) & (cells["method"] == method)]
        if (own["reward_calls"] > 0).any():
            return info.reward
        return info.filter if (own["curation_reward_calls"] > 0).any() else None

    def learning(self, task: str, method: str, guidance: float | None = None) -> Interval | None:
        """What a method gained over the base under the scorer that it met in training, at the end, on the same prompts.

        At the evaluation's guidance, or another scale of the grid. None where it met none, or where that did not judge.
        """
        key = ("learning", task, method, guidance)
        if key not in self._cache:
            scorer = self.optimises(task, method) if method != BASE else None
            table = pd.DataFrame()
            if scorer is not None and scorer in self.scorers(task):
                of = [self.scores_at(task, name, scorer, guidance) for name in (method, BASE)]
                table = paired(*of, what=f"{task}: {method} and base ({scorer})", has_seeds=False)
            self._cache[key] = table_interval(table) if table.size else None
        return self._cache[key]

    def did_not_learn(self, task: str, method: str, guidance: float | None = None) -> bool:
        """Whether the scorer that a method met in training is not above the base's by more than its interval."""
        gained, scorer = self.learning(task, method, guidance), self.optimises(task, method)
        if gained is None or scorer is None or math.isnan(gained.low):
            return False
        return not (gained.low > 0 if self.info(scorer).higher_is_better else gained.high < 0)

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
            seeds = {name: self.seeds(task, name) for name in self.methods(task) if name != BASE}
            samples = self.done_samples
            rows = samples[(samples["task"] == task) & (samples["split"] == REPORT) & samples[scorer].notna()]
            self._cache[key] = curves_of(rows, scorer, self.experiment.milestones, task, seeds)
        return self._cache[key]
