"""All cells of an experiment: tasks x methods x seeds as parallel worker processes."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import registry
from bench.canonical import config_hash
from bench.config.job import CellJob
from bench.config.search import joined
from bench.config.settings import BASE, Experiment
from bench.config.task import Task
from bench.distributed.launch import RankInfo, Team
from bench.experiments.resume import remaining_jobs
from bench.experiments.workers import EventHandler, alone, run_all
from bench.files import remove_parts
from bench.locks import hold_lock
from bench.paths import inside, portable, portable_values
from bench.results.records.ownership import mark_as_own
from bench.results.records.schema import ExperimentHeader, ScorerInfo, TaskInfo
from bench.results.records.writer import EXPERIMENT, read_experiment_header, write_experiment_header


def experiment_jobs(experiment: Experiment, results: Path) -> list[CellJob]:
    """Every cell: the bases first, then methods with all tasks and seeds, seed by seed."""
    cells = [CellJob(experiment, results, task.name, BASE, 0) for task in experiment.tasks]
    return cells + [
        CellJob(experiment, results, task.name, chain.label, seed)
        for seed in experiment.seeds
        for task in experiment.tasks
        for chain in experiment.methods
        if chain.label != BASE
    ]


def run_experiment(
    experiment: Experiment, results: Path, workers: int, display: EventHandler, command: str = "", *,
    allow_mixed: bool = False, team: Team | None = None,
) -> int:  # fmt: skip
    """Run what is not done yet; returns the number of failed cells. `command` is what asked for it, for the report.

    With a `team`, whose first process this is, all its processes train each cell together.

    Raises:
        DataError: another process holds the results folder, it cannot be written, or it belongs to another
            configuration; or to other code, unless `allow_mixed`.
        KeyboardInterrupt: passed on after the workers have ended, for SIGTERM too; the same command goes on from their
            checkpoints.
    """
    folder = inside(results, experiment.name)
    every = experiment_jobs(experiment, results)
    about = {"cells": [job.name for job in every], "workers": workers}
    with hold_lock(folder / "run.lock", about=about) as stale, _sigterm_interrupts():
        if stale:
            print(f"the run of {stale} ended without a word; what it left unfinished goes on")
        remove_parts(folder)
        remaining = remaining_jobs(every, folder, allow_mixed=allow_mixed)
        todo = remaining.jobs
        if not (folder / EXPERIMENT).exists():
            mark_as_own(folder)
        write_experiment_header(folder, experiment_header(experiment, folder, command if todo else ""))
        if not todo:
            print(f"all cells are recorded in {folder}: nothing to run; another --name runs them afresh")
        if remaining.uncomparable:
            print(
                f"{remaining.uncomparable} cells have the older kind of source hash, of all files of the package: "
                "whether the present code would give the same numbers is not known"
            )
        for job in todo:
            display.handle({"cell": job.name, "event": "queue"})
        place = alone if team is None else lambda job: team.begin(job.name)
        bases = [job for job in todo if job.label == BASE]
        failed = run_all(bases, workers, display, place)
        failed += run_all([job for job in todo if job.label != BASE], workers, display, place)
        if team is not None:
            team.end()
        return failed


def follow_experiment(experiment: Experiment, results: Path, team: Team) -> None:
    """Train the cells that the first process of a team begins together with it; writes nothing."""
    known = {job.name: job for job in experiment_jobs(experiment, results)}
    with _sigterm_interrupts():
        for name, place in team.cells():
            run_all([known[name]], 1, _OnlyFailures(place), partial(_at, place))


def _at(place: RankInfo, job: CellJob) -> RankInfo:
    return place


class _OnlyFailures:
    """The display of a process that follows."""

    def __init__(self, place: RankInfo) -> None:
        self._place = place

    def handle(self, event: dict[str, Any]) -> None:
        """Tell what failed here."""
        if event["event"] == "end" and event["status"] == "failed":
            print(f"process {self._place.rank}: {event['cell']}: {event['message']}", file=sys.stderr)


def experiment_header(experiment: Experiment, folder: Path, command: str = "") -> ExperimentHeader:
    """What the folder compares: what it held before, and what this run adds to it."""
    shared, data = experiment.shared_config, experiment.data
    chosen_before = data.found.selected_by if data and data.found else None
    tasks = {t.name: _task_info(t, chosen_before) for t in experiment.tasks}
    scorers = {portable(name): _scorer_info(experiment, name) for name in _judges(experiment)}
    methods = tuple(chain.label for chain in experiment.methods if chain.label != BASE)
    trials, search = experiment.tuning_trials, experiment.search
    if (folder / EXPERIMENT).exists():
        old = read_experiment_header(folder)
        held = portable_values(old.config)  # older versions stored absolute paths
        if all(held.get(name) == value for name, value in shared.items()):
            shared = old.config  # older versions recorded settings too that decide no number
        tasks, scorers = {**old.tasks, **tasks}, {**old.scorers, **scorers}
        methods = (*old.methods, *(m for m in methods if m not in old.methods))
        trials = old.trials if trials is None else trials
        search = joined(old.search, search)
        command = old.command if command in old.command else f"{old.command} && {command}"
    return ExperimentHeader(
        name=experiment.name, label=experiment.label, question=experiment.question, config=shared,
        config_hash=config_hash(shared), tasks=tasks, methods=methods, scorers=scorers, budget=experiment.budget.text,
        baseline=experiment.baseline, trials=trials, search=search, command=portable(command),
    )  # fmt: skip


def _task_info(task: Task, chosen_before: str | None) -> TaskInfo:
    about = {
        "primary": task.primary, "reward": task.reward, "filter": task.select or chosen_before, "title": task.title,
        "margins": {name: margin for name, margin in task.margins.items() if name in task.scorers},
    }  # fmt: skip
    return TaskInfo(**portable_values(about), scorers=tuple(map(portable, task.scorers)))


def _judges(experiment: Experiment) -> list[str]:
    """The scorers of all tasks and prompt sets, each once."""
    judges = [name for task in experiment.tasks for name in task.scorers]
    return list(dict.fromkeys([*judges, *experiment.evaluation.set_scorers]))


def _scorer_info(experiment: Experiment, name: str) -> ScorerInfo:
    reward = registry.load_reward(name)
    margins = [task.margins[name] for task in experiment.tasks if name in task.margins]
    return ScorerInfo(
        gold=reward.gold, margin=margins[0] if margins else None, pair=reward.stands_for or None,
        higher_is_better=reward.higher_is_better, version=reward.version, source=reward.source,
        range=(_finite(reward.range[0]), _finite(reward.range[1])),
    )  # fmt: skip


def _finite(bound: float) -> float | None:
    return float(bound) if math.isfinite(bound) else None


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: workers first, then a word how to go on."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
