"""One cell: one method on one task with one seed, from the base model to its record. The runner owns the loop."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import torch

from bench import registry
from bench.api import BenchError, BudgetExhausted, PluginError
from bench.budget import Ledger
from bench.checkpoint import Checkpoints
from bench.curation import curate
from bench.evaluate import Evaluator
from bench.job import CellJob
from bench.policy import SD3Policy
from bench.provenance import collect
from bench.record import CellRecord
from bench.schema import config_hash
from bench.scorer import Scorer
from bench.settings import BASE
from bench.stage import Stage
from bench.tasks.world import World, load_world

CHECKPOINT_SECONDS = 60.0
LOG_SHARE = 0.01  # of the budget between two logged steps
MAX_SKIPPED_IN_A_ROW = 50

Post = Callable[[dict[str, Any]], None]


def run_cell(job: CellJob, post: Post) -> None:
    """Run one cell, or what is left of it; a failure is a record too, and is raised again."""
    torch.set_num_threads(job.experiment.threads)
    cell = _Cell(job, post)
    try:
        cell.run()
    except BenchError as error:
        cell.fail(str(error))
        raise


class _Cell:
    def __init__(self, job: CellJob, post: Post) -> None:
        self.job = job
        self.experiment = job.experiment
        self.task = job.experiment.task(job.task)
        self.post = lambda event, **fields: post({"cell": job.name, "event": event, **fields})
        self.record = CellRecord(job.folder)
        self.checkpoints = Checkpoints(job.folder / "checkpoint")
        self.ledger = Ledger()
        self.update = 0
        self.fraction = 0.0
        self._milestone_fractions = list(self.experiment.evaluation.milestones)
        self._last_checkpoint = time.monotonic()
        self._last_logged = 0.0
        self._metrics: dict[str, list[float]] = {}

    def run(self) -> None:
        if self.record.status() == "done":
            return
        self.post("start")
        world = load_world(self.experiment.world, self.experiment.model)
        scorers = load_scorers({*self.task.scorers, self.task.reward, self.task.select})
        policy = SD3Policy.load(world.model)
        unit = policy.measure_flops().forward
        if self.record.status() != "unfinished":
            self.checkpoints.clear()
        saved = self.checkpoints.load()
        self._open_record(policy)
        evaluator = Evaluator(
            world, self.task, self.experiment.evaluation, {n: scorers[n] for n in self.task.scorers}, policy,
            tick=lambda part: self.post("evaluate", fraction=self.fraction, update=self.update, part=part),
        )  # fmt: skip
        self.record.truncate_after(self._restore(saved))
        if self.job.label == BASE:
            if self.task.select:
                curate(world, self.task, policy, scorers[self.task.select])
        else:
            self._train(world, policy, scorers, evaluator, unit, saved)
        self._finish(policy, evaluator)

    def fail(self, reason: str) -> None:
        """End the record with what went wrong."""
        if self.record.status() == "unfinished":
            self.record.append("end", status="failed", reason=reason, ledger=self.ledger.facts())
        self.post("end", status="failed", message=reason, fraction=self.fraction, update=self.update)

    # Record and checkpoint

    def _open_record(self, policy: SD3Policy) -> None:
        config = self.experiment.cell_config(self.task.name, self.job.label)
        stages = () if self.job.label == BASE else self.experiment.stages(self.job.label)
        precision = stages[0].train.precision if stages else policy.precision
        provenance = collect(str(policy.device), precision, self.experiment.threads)
        self.record.start(
            {
                "experiment": self.experiment.name, "task": self.task.name, "method": self.job.label,
                "seed": self.job.seed, "config": config, "config_hash": config_hash(config),
                "provenance": provenance.model_dump(mode="json"),
            }
        )  # fmt: skip

    def _restore(self, saved: Any) -> int:
        """Take the counters from a checkpoint; returns the update up to which the record stands."""
        if saved is None:
            return -1
        _, state, complaints = saved
        for complaint in complaints:
            self.post("note", message=complaint)
        if not state:
            return -1
        self.ledger = Ledger.from_state(state["ledger"])
        self.update, self.fraction = state["update"], state["fraction"]
        self._milestone_fractions = state["milestones"]
        self._last_logged, self._metrics = state["last_logged"], state["metrics"]
        return self.update

    def _save(self, number: int, stage: Stage) -> None:
        tensors, state = stage.tensors(), stage.state_dict()
        self.checkpoints.save(
            self.update,
            tensors,
            {
                "stage": number, "inside": state, "ledger": self.ledger.state_dict(), "update": self.update,
                "fraction": self.fraction, "milestones": self._milestone_fractions,
                "last_logged": self._last_logged, "metrics": self._metrics,
            },
        )  # fmt: skip
        self._last_checkpoint = time.monotonic()

    # The loop

    def _train(
        self, world: World, policy: SD3Policy, scorers: dict[str, Scorer], evaluator: Evaluator, unit: float, saved: Any
    ) -> None:
        stages = self.experiment.stages(self.job.label)
        budgets = self.experiment.budgets(self.job.label)
        whole = sum(budget.amount for budget in budgets)
        first = saved[1]["stage"] if saved and saved[1] else 0
        before = 0.0
        for number, (settings, budget) in enumerate(zip(stages, budgets, strict=True)):
            if number >= first:
                stage = Stage.enter(
                    settings, budget, before, policy, world, self.task, scorers, self.ledger, unit,
                    seed=self.job.seed, number=number, entry=self.checkpoints.folder / f"stage{number}.safetensors",
                )  # fmt: skip
                if saved and saved[1] and number == first:
                    stage.load(saved[0], saved[1]["inside"])
                last = number == len(stages) - 1
                for _ in self._updates(stage, before / whole, budget.amount / whole):
                    self._after_update(number, stage, policy, evaluator, last)
                stage.leave()
            before += budget.amount

    def _updates(self, stage: Stage, offset: float, share: float) -> Iterator[None]:
        """Run the phases of one stage until the next does not fit; yields after each optimiser update."""
        while True:
            try:
                with self._clock():
                    metrics = stage.advance()
            except BudgetExhausted:
                stage.abandon()
                return
            if metrics is None:
                return
            if stage.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
                raise PluginError(
                    f"{stage.skipped_in_a_row} steps in a row had no gradient to apply: the rewards within each group "
                    "are all equal; choose a finer reward, more pictures per prompt, or easier prompts"
                )
            self.fraction = offset + share * stage.limit.fraction
            self.update = self.ledger.updates
            for name, value in metrics.items():
                self._metrics.setdefault(name, []).append(float(value))
            yield

    def _after_update(self, number: int, stage: Stage, policy: SD3Policy, evaluator: Evaluator, last: bool) -> None:
        loss = self._metrics.get("base") or self._metrics.get("policy")
        self.post("step", update=self.update, fraction=self.fraction, loss=loss[-1] if loss else None)
        if self.fraction - self._last_logged >= LOG_SHARE:
            self._log(number)
        due = [m for m in self._milestone_fractions if m <= self.fraction and m < 1.0]
        if due:
            self._milestone_fractions = [m for m in self._milestone_fractions if m not in due]
            with stage.averaged():
                self._judge(policy, evaluator, number, final=False)
            self._save(number, stage)
        elif time.monotonic() - self._last_checkpoint > CHECKPOINT_SECONDS:
            self._save(number, stage)

    def _log(self, number: int) -> None:
        means = {name: sum(values) / len(values) for name, values in self._metrics.items()}
        self.record.append("step", stage=number, update=self.update, ledger=self.ledger.facts(), metrics=means)
        self._telemetry("step")
        self._metrics, self._last_logged = {}, self.fraction

    # Evaluation

    def _judge(self, policy: SD3Policy, evaluator: Evaluator, number: int, *, final: bool) -> None:
        settings = self.experiment.evaluation
        judgement = evaluator.judge(policy, self.update, final=final)
        file = f"scores-{self.update:06d}.parquet"
        self.record.write_scores(file, judgement.frame)
        self.record.append(
            "milestone", stage=number, update=self.update, fraction=min(1.0, self.fraction), ledger=self.ledger.facts(),
            guidance=settings.guidance, steps=settings.steps, file=file, scores=judgement.scores,
            diversity=judgement.diversity, drift=judgement.drift,
        )  # fmt: skip
        self._telemetry("milestone")
        score = judgement.scores[self.task.primary]["mean"] if self.task.primary in judgement.scores else None
        self.post("milestone", update=self.update, fraction=self.fraction, score=score)

    def _finish(self, policy: SD3Policy, evaluator: Evaluator) -> None:
        stages = 1 if self.job.label == BASE else len(self.experiment.stages(self.job.label))
        if self._metrics:
            self._log(stages - 1)
        self._judge(policy, evaluator, stages - 1, final=True)
        frame = evaluator.grid(policy, self.update)
        if frame is not None:
            self.record.write_scores("grid.parquet", frame)
            self.record.append("grid", file="grid.parquet")
        png, prompts, tile = evaluator.pictures(policy)
        self.record.write_bytes("pictures.png", png)
        settings = self.experiment.evaluation
        self.record.append(
            "pictures", file="pictures.png", tile=list(tile), prompt_indices=[p.index for p in prompts],
            captions=[p.text for p in prompts], guidance=settings.guidance, steps=settings.steps,
        )  # fmt: skip
        policy.save(self.job.folder / "checkpoint" / "model")
        self._telemetry("end")
        self.record.append("end", status="done", reason=None, ledger=self.ledger.facts())
        self.checkpoints.clear()
        self.post("end", status="done", update=self.update, fraction=1.0)

    # Telemetry

    @contextmanager
    def _clock(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ledger.seconds += time.perf_counter() - start

    def _telemetry(self, kind: str) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.record.telemetry(
            kind, update=self.update, seconds=self.ledger.seconds, cpu_seconds=usage.ru_utime + usage.ru_stime,
            max_rss_mib=usage.ru_maxrss / 1024, host=socket.gethostname(),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip


def load_scorers(names: set[str | None]) -> dict[str, Scorer]:
    """The named rewards, loaded and ready; the same scorer serves every role."""
    scorers = {}
    for name in sorted(n for n in names if n):
        reward = registry.load_reward(name)()
        reward.load()
        scorers[name] = Scorer(reward)
    return scorers
