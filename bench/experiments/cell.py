"""One cell: one method on one task with one seed, from the base model to its record. The runner owns the loop."""

from __future__ import annotations

import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import torch

from bench.api import BenchError, ConfigError, DataError, NonFiniteError
from bench.budget import Ledger
from bench.canonical import config_hash
from bench.config.job import CellJob
from bench.config.settings import BASE
from bench.datasets.world import World
from bench.datasets.worlds import experiment_world
from bench.device import describe_device, resolve_device
from bench.distributed.fsdp_passes import ShardedPasses
from bench.distributed.ranks import SINGLE_PROCESS, Ranks
from bench.experiments.resume import cell_header
from bench.experiments.scorer_roles import record_scorers
from bench.files import remove_parts
from bench.locks import hold_lock
from bench.models.encoding_cache.store import Store
from bench.models.policy import SD3Policy
from bench.results.records.schema import Event, Milestone, PromptSetScores, Scorers
from bench.results.records.writer import CellRecord
from bench.scoring.loading import Placement, load_scorers
from bench.scoring.scorer import Scorer
from bench.scoring.weighted_sum import standard_candidates
from bench.training.checkpoint import Checkpoints, Saved
from bench.training.curation import curated_data
from bench.training.evaluate import Evaluator, SetJudgement
from bench.training.failure_dump import FOLDER as FAILURE
from bench.training.failure_dump import write_failure_dump
from bench.training.loop import Training

CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at least; 0: one after every update
LOG_SHARE = 0.01  # of the budget between two logged steps
CHECKPOINT_SHARE = 0.05  # of the time that checkpoints may take: those of large models take long
JUDGED = Scorers | Milestone | PromptSetScores  # what stays of a record once nothing but judging is left
LOCK_SECONDS = 30.0  # for the worker of a killed run to end

Post = Callable[[dict[str, Any]], None]


def run_cell(job: CellJob, post: Post, ranks: Ranks = SINGLE_PROCESS) -> None:
    """Run one cell, or what is left of it; a failure is a record too, and is raised again.

    Of several ranks the first writes record, checkpoints and scores; the others need to read its results folder.
    """
    torch.set_num_threads(job.experiment.threads)
    lock = hold_lock(job.folder / "checkpoint" / "cell.lock", wait=LOCK_SECONDS) if ranks.is_first else nullcontext()
    with lock:
        cell = _Cell(job, post, ranks)
        try:
            cell.run()
        except BenchError as error:
            cell.fail(str(error))
            raise


class _Cell:
    def __init__(self, job: CellJob, post: Post, ranks: Ranks) -> None:
        self.job = job
        self.ranks = ranks
        self.experiment = job.experiment
        self.task = job.experiment.task(job.task)
        self.post = lambda event, **fields: post({"cell": job.name, "event": event, **fields})
        self.record = CellRecord(job.folder)
        self.checkpoints = Checkpoints(job.folder / "checkpoint")
        self.ledger = Ledger()
        self.training: Training | None = None
        self.store: Store | None = None
        self._is_open = False
        self._milestone_fractions = list(self.experiment.evaluation.milestones)
        self._last_checkpoint = time.monotonic()
        self._pause = CHECKPOINT_SECONDS
        self._last_logged = 0.0
        self._metrics: dict[str, list[float]] = {}
        self._judged: list[Event] = []  # at the end of training, before this run

    @property
    def update(self) -> int:
        """Optimiser updates so far."""
        return self.training.update if self.training else 0

    @property
    def fraction(self) -> float:
        """Share of the budget spent so far."""
        return self.training.fraction if self.training else 0.0

    def run(self) -> None:
        self._refuse_different_settings()
        if self.ranks.all_gather_object("done", self.record.status() == "done")[0]:
            return
        self.post("start")
        with self.ranks.raise_together():
            saved = self._open()
            world, scorers, policy, evaluator = self._set_up(goes_on=saved is not None)
            if self.job.label == BASE:
                self._curate(world, scorers, policy)
        if self.job.label != BASE:
            unit, folder = policy.measure_flops().forward, self.checkpoints.folder
            self.training = Training(
                self.job, world, policy, scorers, self.ledger, unit, folder, self.ranks, self._note
            )
            for metrics in self._updates(self.training, saved):
                with self.ranks.raise_together():
                    self._after_update(metrics, self.training, policy, evaluator)
            with self.ranks.raise_together():
                if saved is None or not saved.state["is_complete"]:
                    self._save_complete(self.training)
            self.training.leave()
        with self.ranks.raise_together():
            self._finish(policy, evaluator)

    def _set_up(self, *, goes_on: bool) -> tuple[World, dict[str, Scorer], SD3Policy, Evaluator]:
        """Load what the cell needs."""
        resolve_device(self.experiment.device)  # first: scorers that run in this process go to its device
        world = experiment_world(self.experiment)
        trains_on = None if self.job.label == BASE else self.task.reward
        of_sets = self.experiment.evaluation.set_scorers
        names = {*self.task.scorers, *of_sets, trains_on, self.task.select}
        placement = Placement.of(self.experiment)
        scorers = load_scorers(names, self._scoring, lambda: standard_candidates(world, self.task), placement)
        if self.ranks.is_first:
            goes_on = goes_on or bool(self._judged)
            record_scorers(self.record, self.task, scorers, goes_on=goes_on, of_sets=of_sets)
        policy = SD3Policy.of(self.experiment, world, self._note)
        self.store = policy.store
        if self.experiment.shard:
            policy.shards = ShardedPasses(self.ranks)
        evaluator = Evaluator(
            world, self.task, self.experiment.evaluation, scorers, policy,
            tick=lambda part: self.post("evaluate", fraction=self.fraction, update=self.update, part=part),
            ranks=self.ranks,
        )  # fmt: skip
        return world, scorers, policy, evaluator

    def _curate(self, world: World, scorers: dict[str, Scorer], policy: SD3Policy) -> None:
        """Encode the supervised data while there is one cell only, so that those that train find it in the cache."""
        stages = [stage for chain in self.experiment.methods for stage in chain.stages]
        if any(stage.build().needs.data for stage in stages):
            select = scorers[self.task.select] if self.task.select else None
            self.ranks.first_rank_first(lambda: curated_data(world, self.task, policy, select, self._note))

    def _refuse_different_settings(self) -> None:
        config = self.experiment.cell_config(self.job.task, self.job.label)
        if len(set(self.ranks.all_gather_object("settings", f"{config_hash(config)} {self.experiment.shard}"))) > 1:
            raise ConfigError("the processes were started with different settings: give all of them the same command")

    def fail(self, reason: str) -> None:
        """End the record with what went wrong."""
        try:
            if self._is_open and self.ranks.is_first:
                self.record.append("end", status="failed", reason=reason, ledger=self.ledger.facts())
        except DataError as another:
            reason += f"; and its record could not be ended: {another}"
        self.post("end", status="failed", message=reason, fraction=self.fraction, update=self.update)

    def _note(self, message: str) -> None:
        self.post("note", message=message)

    # Record and checkpoint

    def _open(self) -> Saved | None:
        """Begin the record, or go on where the last good checkpoint stands, after a failure too."""
        saved = self._open_record() if self.ranks.is_first else None
        number = self.ranks.all_gather_object("checkpoint", saved.number if saved else None)[0]
        if number is not None:
            saved = saved or self.checkpoints.read(number)
            self._restore(saved.state)
        return saved

    def _open_record(self) -> Saved | None:
        before = self.record.status()
        goes_on = self.record.start(cell_header(self.job, describe_device(self.experiment.device)))
        remove_parts(self.job.folder)
        remove_parts(self.checkpoints.folder)
        shutil.rmtree(self.job.folder / FAILURE, ignore_errors=True)
        if not goes_on:
            self.checkpoints.clear()
        saved, complaints = self.checkpoints.load()
        for complaint in complaints:
            self._note(complaint)
        count = saved.state["events"] if saved else 1
        if self.job.label == BASE or (saved and saved.state["is_complete"]):
            self._judged = list(takewhile(lambda event: isinstance(event, JUDGED), self.record.events()[count:]))
        if all(isinstance(event, Scorers) for event in self._judged):  # nothing was scored: they may have been mended
            self._judged = []
        self.record.truncate(count + len(self._judged))
        self._is_open = True
        if before != "new":
            afresh = "goes on with what was not judged yet" if self._judged else "starts afresh"
            where = f"goes on from update {saved.state['update']}" if saved else afresh
            self._note(f"{'failed' if before == 'failed' else 'was interrupted'} before; {where}")
        return saved

    def _restore(self, state: dict[str, Any]) -> None:
        """Take the counters from a checkpoint."""
        if state["processes"] != self.ranks.size:
            self.post(
                "note", message=f"was begun by {state['processes']} processes and goes on with {self.ranks.size}: the "
                "same samples, added up in another order",
            )  # fmt: skip
        self.ledger = Ledger.from_state(state["ledger"])
        self._milestone_fractions = state["milestones"]
        self._last_logged, self._metrics = state["last_logged"], state["metrics"]

    def _save_complete(self, training: Training) -> None:
        """Keep what is to be judged: where judging is interrupted, nothing else is done again."""
        if self._metrics:
            self._log(training.number)
        self._save(training)

    def _save(self, training: Training) -> None:
        start = time.monotonic()
        training.check_frozen()
        tensors, state = training.tensors(), training.state_dict()
        if self.ranks.is_first:
            self.checkpoints.save(
                training.update + training.is_complete,  # one may have been made after the last update already
                tensors,
                {
                    **state, "ledger": self.ledger.state_dict(), "milestones": self._milestone_fractions,
                    "last_logged": self._last_logged, "metrics": self._metrics, "events": len(self.record.events()),
                    "processes": self.ranks.size,
                },
                beside=training.entries,
            )  # fmt: skip
        self._last_checkpoint = time.monotonic()
        took = self._last_checkpoint - start
        self._pause = max(CHECKPOINT_SECONDS, took / CHECKPOINT_SHARE) if CHECKPOINT_SECONDS else 0.0

    def _updates(self, training: Training, saved: Saved | None) -> Iterator[dict[str, float]]:
        """The updates; what the one that met NaN or infinity was working on is kept."""
        try:
            yield from training.updates(saved)
        except NonFiniteError as error:
            if training.stage is None or not self.ranks.is_first:
                raise
            kept = write_failure_dump(self.job.folder, training.stage, training.number, training.update, str(error))
            raise NonFiniteError(
                f"update {training.update + 1}: {error}; what it was working on is kept in {kept}, and "
                f"`python -m bench replay {self.job.folder}` runs it again"
            ) from error

    def _after_update(
        self, metrics: dict[str, float], training: Training, policy: SD3Policy, evaluator: Evaluator
    ) -> None:
        for name, value in metrics.items():
            self._metrics.setdefault(name, []).append(float(value))
        loss = self._metrics.get("base") or self._metrics.get("policy")
        self.post(
            "step", update=self.update, fraction=self.fraction, cost=self.ledger.cost, loss=loss[-1] if loss else None
        )
        if self.fraction - self._last_logged >= LOG_SHARE:
            self._log(training.number)
        due = [m for m in self._milestone_fractions if m <= self.fraction and m < 1.0]
        if due:
            self._milestone_fractions = [m for m in self._milestone_fractions if m not in due]
            assert training.stage is not None
            with training.stage.averaged():
                self._judge(policy, evaluator, training.number, final=False)
            self._save(training)
        elif self.ranks.all_gather_object("time", time.monotonic() - self._last_checkpoint > self._pause)[0]:
            self._save(training)

    def _log(self, number: int) -> None:
        if self.ranks.is_first:
            means = {name: sum(values) / len(values) for name, values in self._metrics.items()}
            self.record.append("step", stage=number, update=self.update, ledger=self.ledger.facts(), metrics=means)
            self._telemetry("step")
        self._metrics, self._last_logged = {}, self.fraction

    # Evaluation

    def _judge(self, policy: SD3Policy, evaluator: Evaluator, number: int, *, final: bool) -> None:
        settings = self.experiment.evaluation
        judgement = evaluator.judge(policy, self.update, final=final)
        if not self.ranks.is_first:
            return
        file = f"scores-{self.update:06d}.parquet"
        self.record.write_scores(file, judgement.frame)
        self.record.append(
            "milestone", stage=number, update=self.update, fraction=min(1.0, self.fraction), ledger=self.ledger.facts(),
            guidance=settings.guidance, steps=settings.steps, file=file, scores=judgement.scores,
            diversity=judgement.diversity, drift=judgement.drift,
        )  # fmt: skip
        self._telemetry("milestone")
        self._post_milestone({name: summary["mean"] for name, summary in judgement.scores.items()})

    def _post_milestone(self, means: Mapping[str, float]) -> None:
        score = means.get(self.task.primary)
        self.post("milestone", update=self.update, fraction=self.fraction, cost=self.ledger.cost, score=score)

    def _record_set(self, judged: SetJudgement, evaluator: Evaluator) -> None:
        if not self.ranks.is_first:
            return
        one, settings = judged.of, self.experiment.evaluation
        file = f"prompts-{one.name}.parquet"
        self.record.write_scores(file, judged.frame)
        self.record.append(
            "prompt_set", name=one.name, file=file, fingerprint=one.found.fingerprint, prompts=one.found.chosen,
            there=one.found.there, samples=one.settings.samples, guidance=settings.guidance, steps=settings.steps,
            in_training=evaluator.in_training(one.prompts) if self.job.label == BASE else None, scores=judged.scores,
        )  # fmt: skip

    def _finish(self, policy: SD3Policy, evaluator: Evaluator) -> None:
        stages = 1 if self.job.label == BASE else len(self.experiment.stages(self.job.label))
        final = [event for event in self._judged if isinstance(event, Milestone)]
        sets = [event.name for event in self._judged if isinstance(event, PromptSetScores)]
        is_judged, sets = self.ranks.all_gather_object("judged", (bool(final), sets))[0]
        if not is_judged:
            self._judge(policy, evaluator, stages - 1, final=True)
        for event in final:
            self._post_milestone({name: summary.mean for name, summary in event.scores.items()})
        for judged in evaluator.prompt_sets(policy, self.update, without=sets):
            self._record_set(judged, evaluator)
        frame = evaluator.grid(policy, self.update)
        png, prompts, tile = evaluator.pictures(policy)
        policy.unshard("cpu")  # nothing but its file is left to be made
        if not self.ranks.is_first:
            self.post("end", status="done", update=self.update, fraction=1.0)
            return
        if frame is not None:
            self.record.write_scores("grid.parquet", frame)
            self.record.append("grid", file="grid.parquet")
        self.record.write_bytes("pictures.png", png)
        settings = self.experiment.evaluation
        self.record.append(
            "pictures", file="pictures.png", tile=list(tile), prompt_indices=[p.index for p in prompts],
            captions=[p.text for p in prompts], guidance=settings.guidance, steps=settings.steps,
        )  # fmt: skip
        policy.save(self.job.folder / "checkpoint" / "model")
        if stages == 1:  # adapters of the last stage alone do not lead from the base to the result
            policy.save_lora(self.job.folder / "checkpoint" / "lora")
        self._telemetry("end")
        self.record.append("end", status="done", reason=None, ledger=self.ledger.facts())
        self.checkpoints.clear()
        self.post("end", status="done", update=self.update, fraction=1.0)

    # Telemetry

    @contextmanager
    def _scoring(self, reward: str, part: str) -> Iterator[None]:
        """Tells the watchdog when a reward begins and ends; one that hangs cannot tell by itself."""
        self.post("score", reward=reward, part=part)
        try:
            yield
        finally:
            self.post("scored")

    def _telemetry(self, kind: str) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counts = self.store.counts if self.store is not None and kind == "end" else None
        self.record.telemetry(
            kind, update=self.update, seconds=self.ledger.seconds, cpu_seconds=usage.ru_utime + usage.ru_stime,
            max_rss_mib=usage.ru_maxrss / 1024, host=socket.gethostname(),
            time=datetime.now(UTC).isoformat(timespec="seconds"), encodings=asdict(counts) if counts else None,
        )  # fmt: skip
