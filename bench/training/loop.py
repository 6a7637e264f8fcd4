"""The updates of one cell, stage after stage, from the beginning or from a checkpoint; no evaluation, no record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.api import BudgetExhausted, ConfigError, PluginError
from bench.budget import Budget, Ledger
from bench.config.job import CellJob
from bench.config.settings import StageSettings as StageSettings
from bench.training.checkpoint import Saved
from bench.training.context import TaskContext
from bench.training.frozen_check import FrozenCheck
from bench.training.stage import Stage, StageStart

MAX_SKIPPED_IN_A_ROW = 50
# Measured on the embedded base; tests/invariance/test_updates.py has it for the tests' pipeline.
ROUNDED = (
    "method {!r} compares log-probabilities, and train.precision is bfloat16: at guidance 3 rounding adds about 6e-5 "
    "to a KL, whatever its size, and turns the gradient by some 5 %, more at larger guidance. Read a small KL as "
    "noise, or set --train.precision float32"
)


class Training:
    """Runs a cell's methods on a policy within their budgets, and knows all that a checkpoint has to hold.

    Attributes:
        update: optimiser updates so far, over all stages.
        fraction: share of the whole budget that is spent, 0 to 1.
        number: the stage at work, counted from 0.
        is_complete: whether all updates are made; `leave` ends the last stage then.
    """

    def __init__(self, job: CellJob, context: TaskContext, ledger: Ledger, folder: Path) -> None:
        """`folder` is that of the checkpoints."""
        self._job = job
        self._context = context
        self._ranks = context.ranks
        self._ledger = ledger
        self._unit = context.policy.measure_flops().forward
        self._folder = folder
        self._frozen_check: FrozenCheck | None = None
        self.stage: Stage | None = None
        self.update = 0
        self.fraction = 0.0
        self.number = 0
        self.is_complete = False

    @property
    def entries(self) -> list[str]:
        """The files in the checkpoints' folder that a resume needs: the weights at entry of the present stage."""
        return [_entry(self.number)] if self.number else []

    def updates(self, saved: Saved | None) -> Iterator[dict[str, float]]:
        """Make one optimiser update after another until the budget ends; gives what each one logged.

        The last stage is not left, so that it can be saved. From where all updates were made, there are none.

        Raises:
            ConfigError: the budget of a stage is too small for a single update.
            PluginError: a method breaks the contract, or finds no gradient many times in a row.
            NonFiniteError: a loss or a gradient is NaN or infinite.
        """
        experiment, label = self._job.experiment, self._job.label
        stages, budgets = experiment.stages(label), experiment.budgets(label)
        whole = sum(budget.amount for budget in budgets)
        if saved is not None:
            self.number, self.update, self.fraction = (saved.state[name] for name in ("stage", "update", "fraction"))
            self.is_complete = saved.state["is_complete"]
        first, before = self.number, 0.0
        for number, (settings, budget) in enumerate(zip(stages, budgets, strict=True)):
            if number >= first:
                resumed = saved if number == first else None
                if number > first:
                    self.check_frozen()
                    self.leave()
                self.number, self.stage = number, None
                self.stage = self._enter(settings, budget, before, resumed)
                if not self.is_complete:
                    share = budget.amount / whole
                    yield from self._stage_updates(self.stage, before / whole, share, resumed is not None)
            before += budget.amount
        self.is_complete = True

    def _enter(self, settings: StageSettings, budget: Budget, before: float, saved: Saved | None) -> Stage:
        entry = self._folder / _entry(self.number)
        if saved is None and self._ranks.is_first:  # what an interrupted run left there was checked by nothing
            entry.unlink(missing_ok=True)
        with self._ranks.raise_together():
            plan = StageStart(settings, budget, self._job.seed, before, self.number, entry)
            stage = Stage.enter(plan, self._context, self._ledger, self._unit)
        if stage.method.needs.log_prob and settings.train.precision == "bfloat16":
            self._context.note(ROUNDED.format(stage.method.name))
        if saved is not None:
            stage.load(saved.tensors, saved.state["inside"])
        self._frozen_check = FrozenCheck(stage.frozen())
        return stage

    def _stage_updates(
        self, stage: Stage, offset: float, share: float, has_made_one: bool
    ) -> Iterator[dict[str, float]]:
        """Run the phases of one stage until the next does not fit."""
        while True:
            try:
                metrics = self._timed(stage)
            except BudgetExhausted as error:
                stage.abandon()
                if not has_made_one:
                    raise ConfigError(
                        f"{stage.method.name!r} got a budget of {stage.limit.budget}, which is too small for one "
                        f"update ({error}): raise --budget, or lower its batch size or its pictures by update"
                    ) from error
                return
            if metrics is None:
                return
            has_made_one = True
            if stage.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
                raise PluginError(
                    f"{stage.skipped_in_a_row} steps in a row had no gradient to apply: the rewards within each group "
                    "are all equal; choose a finer reward, more pictures per prompt, or easier prompts"
                )
            self.fraction = offset + share * stage.limit.fraction
            self.update = self._ledger.updates
            yield metrics

    def _timed(self, stage: Stage) -> dict[str, float] | None:
        start = time.perf_counter()
        try:
            with self._ranks.raise_together():
                metrics = stage.advance()
        except BudgetExhausted:
            self._spend(stage, time.perf_counter() - start)
            raise
        self._spend(stage, time.perf_counter() - start)
        return metrics

    def _spend(self, stage: Stage, seconds: float) -> None:
        self._ledger.seconds += seconds
        stage.env.settle()

    def leave(self) -> None:
        """End the stage at work: the policy is what its method made of it."""
        assert self.stage is not None
        self.stage.leave()

    def check_frozen(self) -> None:
        """Make sure that the method has changed no weights but those it trains.

        Raises:
            PluginError: it has.
        """
        if self._frozen_check is not None and self.stage is not None:
            self._frozen_check.check(self.stage.method.name)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint."""
        assert self.stage is not None
        return self.stage.tensors()

    def state_dict(self) -> dict[str, Any]:
        """All else of a checkpoint, JSON-able."""
        assert self.stage is not None
        return {
            "stage": self.number, "inside": self.stage.state_dict(), "update": self.update, "fraction": self.fraction,
            "is_complete": self.is_complete,
        }  # fmt: skip


def _entry(number: int) -> str:
    return f"stage{number}.safetensors"
