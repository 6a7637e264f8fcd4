"""What an experiment would run, and what it would take.

On the embedded base that is computed (`computed` beside this module). On others, or when asked to measure, each method
does a few updates that are thrown away: what a method spends by update in every unit is read from the ledger of these,
and the time of evaluation follows from the measured rate of forward passes. What was measured is kept for the next
call (`measured`); torch and the model libraries are imported only where they are needed.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.api import DataError
from bench.budget import Budget, Ledger
from bench.config.settings import BASE, Evaluation, Experiment
from bench.config.task import Task
from bench.preflight.forecast.measured import keep_measured, kept_measured

if TYPE_CHECKING:
    from bench.datasets.world import World
    from bench.scoring.scorer import Scorer

_TRIAL = Budget(1e18, "cost")
_CANDIDATES = 256  # enough for every category, few enough to be quick
_UNDISTURBED = 0.7  # of the time of a measurement that this process has a processor, at least, to be kept
# Forward-equivalents per second of one thread on the machine the embedded world was made on; where nothing is measured
DOCUMENTED_RATE = 1000.0
START_SECONDS = 8.0  # imports, the model, the scorers


@dataclass(frozen=True)
class StagePlan:
    """One stage of a method: its budget, and what one update and all of them spend, by unit."""

    name: str
    budget: Budget
    by_update: dict[str, float]

    @property
    def updates(self) -> int:
        """Whole updates that the budget holds."""
        return int(self.budget.amount / self.by_update[self.budget.unit])

    def total(self, unit: str) -> float:
        """What all updates spend of a unit."""
        return self.updates * self.by_update[unit]


@dataclass(frozen=True)
class ExperimentPlan:
    """The estimate: cells in all and done already, stages by method, evaluation, and seconds with all workers.

    rate: forward passes a second of one worker; `measured` says whether it was measured here, and `when` where that was
    for another call.
    """

    cells: int
    done: int
    stages: dict[str, tuple[StagePlan, ...]]
    evaluation_passes: int
    base_passes: int
    rate: float
    measured: bool
    when: str | None = None

    def cell_seconds(self, label: str) -> float:
        """Seconds of one cell of a method, or of a base cell, start and evaluation included."""
        passes = self.base_passes if label == BASE else self.evaluation_passes
        return START_SECONDS + passes / self.rate + sum(s.total("seconds") for s in self.stages.get(label, ()))


def evaluation_passes(settings: Evaluation, *, base: bool = False) -> int:
    """Forward passes of all evaluations of one cell; guidance other than 1 takes two a step."""

    def passes(prompts: int, steps: int, guidance: float) -> int:
        return prompts * steps * (1 if guidance == 1 else 2)

    before_end = 0 if base else len(settings.milestones) - 1
    prompts = settings.final_prompts + settings.held_out_prompts + settings.pictures
    prompts += before_end * settings.milestone_prompts + settings.diversity_prompts * settings.diversity_samples
    prompts += sum(one.found.chosen * one.samples for one in settings.prompt_sets.values() if one.found)
    total = passes(prompts, settings.steps, settings.guidance)
    for guidance in settings.grid_guidance:
        total += sum(passes(settings.grid_prompts, steps, guidance) for steps in settings.grid_steps)
    # the fixed states, and paths from an eighth of them, by the model and by the base
    return total + (before_end + 1) * settings.drift_states * 4


def count_cells(experiment: Experiment, results: Path) -> ExperimentPlan:
    """The cells, and those that are done; no method is measured."""
    from bench.experiments import grid
    from bench.results.records.writer import cell_status

    jobs = grid.experiment_jobs(experiment, results)
    return ExperimentPlan(
        cells=len(jobs),
        done=sum(cell_status(job.folder) == "done" for job in jobs),
        stages={},
        evaluation_passes=evaluation_passes(experiment.evaluation),
        base_passes=evaluation_passes(experiment.evaluation, base=True),
        rate=DOCUMENTED_RATE,
        measured=False,
    )


def measure_plan(experiment: Experiment, results: Path, *, again: bool = False) -> ExperimentPlan:
    """Put the whole together from what was measured before for such an experiment, or is computed, or measured now.

    `again` measures in any case.

    Raises:
        ConfigError, PluginError: a method or reward cannot be set up.
    """
    from bench.preflight.forecast.computed import computed_spending

    plan = count_cells(experiment, results)
    try:
        kept = None if again else kept_measured(experiment)
        if kept is not None:
            rate, spent = kept.rate, kept.spent
        elif (computed := None if again else computed_spending(experiment, DOCUMENTED_RATE)) is not None:
            return dataclasses.replace(plan, stages=_stages(experiment, computed))
        else:
            rate, spent = _measured_now(experiment)
    except DataError as error:
        print(f"nothing can be measured here, so only cells are counted: {error}")
        return plan
    stages = _stages(experiment, spent)
    return dataclasses.replace(plan, rate=rate, stages=stages, measured=True, when=kept.when if kept else None)


def _stages(experiment: Experiment, spent: dict[str, list[dict[str, float]]]) -> dict[str, tuple[StagePlan, ...]]:
    return {
        label: tuple(
            StagePlan(settings.name, budget, amounts)
            for settings, budget, amounts in zip(
                experiment.stages(label), experiment.budgets(label), of_stages, strict=True
            )
        )
        for label, of_stages in spent.items()
    }


def _measured_now(experiment: Experiment) -> tuple[float, dict[str, list[dict[str, float]]]]:
    """As `_measure_methods` has it, and kept for the next call where the machine was not busy with something else."""
    found, share = _measure_methods(experiment)
    try:
        if share < _UNDISTURBED:
            print(f"not kept for the next call: other processes took part of the time ({1 - share:.0%})")
        else:
            keep_measured(experiment, *found)
    except DataError as error:
        print(f"not kept for the next call: {error}")
    return found


def _measure_methods(experiment: Experiment) -> tuple[tuple[float, dict[str, list[dict[str, float]]]], float]:
    """Forward passes a second, and what an update of each stage spends by unit, by method.

    Beside them the share of the time in which this process had a processor.
    """
    from bench.datasets.worlds import experiment_world
    from bench.models.policy import PipelinePolicy
    from bench.preflight.forecast.throughput import forward_rate, threads
    from bench.scoring.loading import Placement, load_scorers
    from bench.scoring.weighted_sum import standard_candidates

    world, task = experiment_world(experiment), dataclasses.replace(experiment.tasks[0], candidates=_CANDIDATES)
    start, at_work = time.perf_counter(), time.process_time()
    with threads(experiment.threads):
        policy = PipelinePolicy.of(experiment, world)
        rate, unit = forward_rate(policy, experiment.evaluation.batch_size), policy.measure_flops().forward
        scorers = load_scorers(
            {task.reward, task.select},
            candidates=lambda: standard_candidates(world, task),
            placement=Placement.of(experiment),
        )
        labels = [chain.label for chain in experiment.methods if chain.label != BASE]
        spent = {label: _try_method(experiment, label, world, task, scorers, unit) for label in labels}
    return (rate, spent), (time.process_time() - at_work) / (time.perf_counter() - start)


def _try_method(
    experiment: Experiment, label: str, world: World, task: Task, scorers: dict[str, Scorer], unit: float
) -> list[dict[str, float]]:
    """A few updates of every stage of a method on a task, on a model that is thrown away."""
    from bench.models.policy import PipelinePolicy
    from bench.preflight.forecast.spending import spent_by_update
    from bench.training.context import TaskContext
    from bench.training.stage import Stage, StageStart

    found = []
    for settings in experiment.stages(label):
        context, ledger = TaskContext(world, task, PipelinePolicy.of(experiment, world), scorers), Ledger()
        stage = Stage.enter(StageStart(settings, _TRIAL), context, ledger, unit)
        found.append(spent_by_update(stage, ledger))
    return found
