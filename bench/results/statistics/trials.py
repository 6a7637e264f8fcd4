"""The trials of a search (`bench.config.search`) on tune prompts: how each was set, what it gained, which is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench.config.reward_expression import parts_of
from bench.config.search import Range, Search, searched_method
from bench.results.records.schema import BASE
from bench.results.statistics.analysis import Analysis

__all__ = [
    "TUNE",
    "Judged",
    "TaskTrials",
    "Trial",
    "best_over_tasks",
    "place_in_range",
    "search_of",
    "search_trials",
    "searched_methods",
]

TUNE = "tune"  # the split of prompts that trials are judged on


@dataclass(frozen=True)
class Judged:
    """Gains over the base in one scorer by method: means over seeds and `prompts` that all have; positive is better."""

    guidance: float
    steps: int
    prompts: int
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One finished trial of a method in a task.

    settings: the searched ones, by dotted name. gains: in the headline scorer, in the order of `TaskTrials.judged`.
    rewards: by the scorers of `TaskTrials.rewards`. value: the mean of `gains`, in margins where one is stated.
    """

    label: str
    seeds: int
    settings: Mapping[str, Any]
    gains: tuple[float, ...]
    rewards: Mapping[str, float]
    value: float


@dataclass(frozen=True)
class TaskTrials:
    """The trials of one task by method, best first.

    judged: the headline scorer at the headline's guidance, then at the other scales of the grid. rewards: the other
    scorers that the task's reward is made of, at the headline's guidance. margin: the headline scorer's, if stated.
    """

    task: str
    scorer: str
    margin: float | None
    judged: tuple[Judged, ...]
    rewards: Mapping[str, Judged]
    methods: Mapping[str, tuple[Trial, ...]]


def search_of(analysis: Analysis) -> Search | None:
    """The search that an experiment was; None where none is recorded, or where its prompts are not for tuning."""
    return analysis.experiment.header.search if analysis.is_tuning else None


def searched_methods(analysis: Analysis) -> tuple[str, ...]:
    """The methods that were searched, in the order of the experiment."""
    found = (searched_method(label) for label in analysis.experiment.header.methods)
    return tuple(dict.fromkeys(name for name in found if name is not None))


def search_trials(analysis: Analysis, search: Search) -> tuple[TaskTrials, ...]:
    """The finished trials of every task."""
    return tuple(_of_task(analysis, search, task) for task in analysis.tasks)


def best_over_tasks(tasks: Sequence[TaskTrials], method: str) -> tuple[Trial, float] | None:
    """The trial that is best over tasks, with its value; None where no trial is finished in all of them.

    The value is the mean over tasks of the trials' own, in margins; where a task states no margin, it is the mean rank
    from the first, negative.
    """
    values: dict[str, list[float]] = {}
    for one in tasks:
        for rank, trial in enumerate(one.methods[method], 1):
            value = trial.value if all(other.margin for other in tasks) else -float(rank)
            values.setdefault(trial.label, []).append(value)
    means = {label: float(np.mean(of)) for label, of in sorted(values.items()) if len(of) == len(tasks)}
    if not means:
        return None
    label = max(means, key=lambda name: means[name])
    return next(trial for trial in tasks[0].methods[method] if trial.label == label), means[label]


def place_in_range(search: Search, method: str, name: str, value: Any) -> Literal["inside", "lowest", "highest"] | None:
    """Whether a setting's value is the lowest or highest that was tried; None for a list that is in no order."""
    tried = [settings[name] for settings in search.draw(method)]
    values = search.searched(method)[name]
    if not isinstance(values, Range):
        numeric = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
        if not numeric or sorted(values) not in (values, values[::-1]):
            return None
    return "lowest" if value <= min(tried) else "highest" if value >= max(tried) else "inside"


def _of_task(analysis: Analysis, search: Search, task: str) -> TaskTrials:
    scorer, scorers = analysis.primary(task), analysis.scorers(task)
    margin, found = analysis.margin(task, scorer), _judged(analysis, task, scorer)
    parts = [name for name in parts_of(analysis.task_info(task).reward) if name in scorers and name != scorer]
    rewards = {name: of[0] for name in parts if (of := _judged(analysis, task, name)[:1])}
    methods = {}
    for method in searched_methods(analysis):
        trials = [
            _trial(analysis, task, label, settings, margin, found, rewards)
            for label, settings in search.trials_of(method).items()
            if found and all(label in one.gains for one in (*found, *rewards.values()))
        ]
        methods[method] = tuple(sorted(trials, key=lambda trial: (-trial.value, trial.label)))
    return TaskTrials(task, scorer, margin, found, rewards, methods)


def _trial(
    analysis: Analysis, task: str, label: str, drawn: Mapping[str, Any], margin: float | None,
    found: Sequence[Judged], rewards: Mapping[str, Judged],
) -> Trial:  # fmt: skip
    return Trial(
        label=label,
        seeds=len(analysis.seeds(task, label)),
        settings=_settings(analysis, label, drawn),
        gains=tuple(one.gains[label] for one in found),
        rewards={name: one.gains[label] for name, one in rewards.items()},
        value=float(np.mean([one.gains[label] for one in found])) / (margin or 1.0),
    )


def _settings(analysis: Analysis, label: str, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The searched settings of a trial as its record has them; as drawn where it has none, of an option since then."""
    head = next(cell.header for cell in analysis.experiment.results if cell.header.method == label)
    stage, found = head.config["stages"][0], {}
    for name, value in drawn.items():
        level: Any = stage if name.startswith("train.") else stage["config"]
        for part in name.split("."):
            level = level.get(part, value) if isinstance(level, Mapping) else value
        found[name] = level
    return found


def _judged(analysis: Analysis, task: str, scorer: str) -> tuple[Judged, ...]:
    """At the headline's guidance on all prompts, then at the grid's other scales on its own; none without a base.

    The grid is read at the headline's number of steps where it has that, else at its highest.
    """
    methods, marks = analysis.methods(task), analysis.experiment.milestones
    last = marks[marks["task"] == task].iloc[-1]
    guidance, steps = round(float(last["guidance"]), 6), int(last["steps"])
    scales, counts = analysis.grid.settings(task)
    steps_of_grid = steps if steps in counts else max(counts, default=steps)
    places = [(guidance, steps), *((scale, steps_of_grid) for scale in scales if scale != guidance)]
    tables = [{name: analysis.scores(task, name, scorer, TUNE) for name in methods}]
    tables += [
        {name: analysis.grid.scores(task, name, scorer, scale, count) for name in methods}
        for scale, count in places[1:]
    ]
    sign = 1 if analysis.info(scorer).higher_is_better else -1
    found = [_gains(place, of, sign) for place, of in zip(places, tables, strict=True)]
    return tuple(one for one in found if one is not None)


def _gains(place: tuple[float, int], tables: Mapping[str, pd.DataFrame], sign: int) -> Judged | None:
    sampled = {method: table for method, table in tables.items() if table.size}
    if BASE not in sampled:
        return None
    shared = reduce(lambda a, b: a.intersection(b), (table.columns for table in sampled.values()))
    if not len(shared):
        return None
    means = {method: float(table[shared].to_numpy(np.float64).mean()) for method, table in sampled.items()}
    return Judged(*place, len(shared), {method: sign * (mean - means[BASE]) for method, mean in means.items()})
