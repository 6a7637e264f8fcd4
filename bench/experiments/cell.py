"""One cell: one method on one task with one seed, from the base model to its record. The runner owns the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import takewhile
from typing import Any

import torch

from bench.api import BenchError, ConfigError, Needs, NonFiniteError
from bench.canonical import config_hash
from bench.config.job import CellJob
from bench.config.settings import BASE
from bench.datasets.worlds import experiment_world
from bench.device import describe_device, resolve_device
from bench.distributed.fsdp_passes import ShardedPasses
from bench.distributed.ranks import SINGLE_PROCESS, Ranks
from bench.experiments.cell_log import CellLog, Post
from bench.experiments.recorded import replay_command
from bench.experiments.resume import cell_header, recorded_sources
from bench.experiments.scorer_roles import record_scorers
from bench.files import remove_parts
from bench.locks import hold_lock
from bench.models.policy import PipelinePolicy
from bench.paths import inside
from bench.results.records.hashes import file_sha256
from bench.results.records.provenance import changed_sources, source_hashes
from bench.results.records.schema import Event, Milestone, PromptSetScores, Scorers
from bench.results.records.writer import RECORD, refuse_changed_sources
from bench.scoring.loading import Placement, load_scorers
from bench.scoring.weighted_sum import standard_candidates
from bench.training.checkpoint import Checkpoints, Saved
from bench.training.context import TaskContext
from bench.training.curation import training_data
from bench.training.evaluate import Evaluator
from bench.training.failure_dump import remove_failure_dump, write_failure_dump
from bench.training.loop import Training

CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at least; 0: one after every update
CHECKPOINT_SHARE = 0.05  # of the time that checkpoints may take: those of large models take long
JUDGED = Scorers | Milestone | PromptSetScores  # what stays of a record once nothing but judging is left
LOCK_SECONDS = 30.0  # for the worker of a killed run to end


def run_cell(job: CellJob, post: Post, ranks: Ranks = SINGLE_PROCESS) -> None:
    """Run one cell, or what is left of it; a failure is a record too, and is raised again.

    Of several ranks the first writes record, checkpoints and scores; the others need to read its results folder.
    """
    torch.set_num_threads(job.experiment.threads)
    lock = inside(job.folder, "checkpoint/cell.lock")
    with hold_lock(lock, wait=LOCK_SECONDS) if ranks.is_first else nullcontext():
        cell = _Cell(job, post, ranks)
        try:
            cell.run()
        except BenchError as error:
            cell.log.failed(str(error))
            raise


class _Pace:
    """When a checkpoint is due: after a minute, and later where writing one takes long."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._pause = CHECKPOINT_SECONDS

    def is_due(self) -> bool:
        return time.monotonic() - self._last > self._pause

    def took(self, seconds: float) -> None:
        """One has been written."""
        self._last = time.monotonic()
        self._pause = max(CHECKPOINT_SECONDS, seconds / CHECKPOINT_SHARE) if CHECKPOINT_SECONDS else 0.0


class _Cell:
    def __init__(self, job: CellJob, post: Post, ranks: Ranks) -> None:
        self.job = job
        self.ranks = ranks
        self.experiment = job.experiment
        self.task = job.experiment.task(job.task)
        self.log = CellLog(job, post, ranks)
        self.checkpoints = Checkpoints(job.folder / "checkpoint")
        self._pace = _Pace()
        self._milestones = list(self.experiment.evaluation.milestones)  # shares of the budget still to be judged at
        self._judged: list[Event] = []  # at the end of training, before this run

    @property
    def is_base(self) -> bool:
        """Whether nothing is trained."""
        return self.job.label == BASE

    def run(self) -> None:
        """From what is recorded to the end."""
        self._refuse_different_settings()
        if self.ranks.all_gather_object("done", self.log.record.status() == "done")[0]:
            return
        self.log.post("start")
        with self.ranks.raise_together():
            saved = self._open()
            context = self._set_up(goes_on=saved is not None)
            evaluator = Evaluator(context, self.experiment.evaluation, self.log.evaluating)
            if self.is_base:
                self._prepare_data(context)
        if not self.is_base:
            self._train(context, evaluator, saved)
        with self.ranks.raise_together():
            self._finish(context.policy, evaluator)

    def _refuse_different_settings(self) -> None:
        config = self.experiment.cell_config(self.job.task, self.job.label)
        told = self.ranks.all_gather_object("settings", f"{config_hash(config)} {self.experiment.shard}")
        if len(set(told)) > 1:
            raise ConfigError("the processes were started with different settings: give all of them the same command")

    # Beginning, or going on

    def _open(self) -> Saved | None:
        """Begin the record, or go on where the last good checkpoint stands, after a failure too."""
        saved = self._open_record() if self.ranks.is_first else None
        number = self.ranks.all_gather_object("checkpoint", saved.number if saved else None)[0]
        if number is None:
            return None
        saved = saved or self.checkpoints.read(number)
        before = saved.state["processes"]
        if before != self.ranks.size:
            self.log.note(
                f"was begun by {before} processes and goes on with {self.ranks.size}: the same samples, added up in "
                "another order"
            )
        self.log.load_state_dict(saved.state)
        self._milestones = saved.state["milestones"]
        return saved

    def _open_record(self) -> Saved | None:
        record, log, job = self.log.record, self.log, self.job
        before = record.status()
        header = cell_header(job, describe_device(self.experiment.device), recorded_sources(record))
        goes_on = record.start(header)
        remove_parts(job.folder)
        remove_parts(self.checkpoints.folder)
        remove_failure_dump(job.folder)
        if not goes_on:
            self.checkpoints.clear()
        sound, wrong = record.sound()
        saved, complaints = self.checkpoints.load(partial(log.refuse_other_record, sound))
        for complaint in [*([f"{job.folder / RECORD}: {wrong}"] if wrong else []), *complaints]:
            log.note(complaint)
        if saved:
            late = saved.state["sources"]
            refuse_changed_sources(job.folder, changed_sources(late, source_hashes({}, late)))
        count = saved.state["events"] if saved else 1
        if self.is_base or (saved and saved.state["is_complete"]):
            self._judged = list(takewhile(lambda it: isinstance(it, JUDGED), record.events()[count : len(sound)]))
        if all(isinstance(event, Scorers) for event in self._judged):  # nothing was scored: they may have been mended
            self._judged = []
        if sound:
            record.truncate(count + len(self._judged))
        else:
            record.begin(header)
        log.is_open = True
        if before != "new":
            afresh = "goes on with what was not judged yet" if self._judged else "starts afresh"
            where = f"goes on from update {saved.state['update']}" if saved else afresh
            log.note(f"{'failed' if before == 'failed' else 'was interrupted'} before; {where}")
        return saved

    def _set_up(self, *, goes_on: bool) -> TaskContext:
        """Load what the cell needs."""
        resolve_device(self.experiment.device)  # first: scorers that run in this process go to its device
        world = experiment_world(self.experiment)
        pairs = any(needs.pairs for needs in self._needs)  # which the base's cell ranks for all of them
        trains_on = None if self.is_base and not pairs else self.task.reward
        of_sets = self.experiment.evaluation.set_scorers
        names = {*self.task.scorers, *of_sets, trains_on, self.task.select}
        placement = Placement.of(self.experiment)
        scorers = load_scorers(names, self.log.scoring, lambda: standard_candidates(world, self.task), placement)
        if self.ranks.is_first:
            goes_on = goes_on or bool(self._judged)
            record_scorers(self.log.record, self.task, scorers, goes_on=goes_on, of_sets=of_sets)
        policy = PipelinePolicy.of(self.experiment, world, self.log.note)
        self.log.encodings = policy.store.counts if policy.store is not None else None
        if self.experiment.shard:
            policy.shards = ShardedPasses(self.ranks)
        return TaskContext(world, self.task, policy, scorers, self.ranks, self.log.note)

    def _prepare_data(self, context: TaskContext) -> None:
        """Encode the supervised data while there is one cell only, so that those that train find it in the cache."""
        for needs in {(needs.unselected, needs.pairs): needs for needs in self._needs if needs.data}.values():
            training_data(context, needs)

    @property
    def _needs(self) -> list[Needs]:
        """Those of all stages of all methods."""
        return [stage.build().needs for chain in self.experiment.methods for stage in chain.stages]

    # Training

    def _train(self, context: TaskContext, evaluator: Evaluator, saved: Saved | None) -> None:
        training = Training(self.job, context, self.log.ledger, self.checkpoints.folder)
        for metrics in self._updates(training, saved):
            with self.ranks.raise_together():
                self.log.update, self.log.fraction = training.update, training.fraction
                self.log.step(training.number, metrics)
                self._judge_or_save(training, context.policy, evaluator)
        self.log.update, self.log.fraction = training.update, training.fraction
        with self.ranks.raise_together():
            if saved is None or not saved.state["is_complete"]:
                self.log.flush(training.number)
                self._save(training)  # where judging is interrupted, nothing else is done again
        training.leave()

    def _updates(self, training: Training, saved: Saved | None) -> Iterator[dict[str, float]]:
        """The updates; what the one that met NaN or infinity was working on is kept."""
        try:
            yield from training.updates(saved)
        except NonFiniteError as error:
            if training.stage is None or not self.ranks.is_first:
                raise
            dump = write_failure_dump(self.job.folder, training.stage, training.number, training.update, str(error))
            raise NonFiniteError(
                f"update {training.update + 1}: {error}; what it was working on is kept in {dump}, and "
                f"`{replay_command(self.job)}` runs it again"
            ) from error

    def _judge_or_save(self, training: Training, policy: PipelinePolicy, evaluator: Evaluator) -> None:
        """After an update: the evaluation that is due, and a checkpoint with it or by itself."""
        due = [m for m in self._milestones if m <= training.fraction and m < 1.0]
        if due:
            self._milestones = [m for m in self._milestones if m not in due]
            assert training.stage is not None
            with training.stage.averaged():
                self.log.milestone(training.number, evaluator.judge(policy, training.update, final=False))
            self._save(training)
        elif self.ranks.all_gather_object("time", self._pace.is_due())[0]:
            self._save(training)

    def _save(self, training: Training) -> None:
        start = time.monotonic()
        training.check_frozen()
        tensors, state = training.tensors(), training.state_dict()
        if self.ranks.is_first:
            own: dict[str, Any] = {"milestones": self._milestones, "processes": self.ranks.size}
            number = training.update + training.is_complete  # one may have been made after the last update already
            self.checkpoints.save(number, tensors, {**state, **self.log.state_dict(), **own}, beside=training.entries)
        self._pace.took(time.monotonic() - start)

    # The end

    def _finish(self, policy: PipelinePolicy, evaluator: Evaluator) -> None:
        """The last evaluation, what was judged of it before left out; then the model, and the end of the record."""
        stages, update = 1 if self.is_base else len(self.experiment.stages(self.job.label)), self.log.update
        final = [event for event in self._judged if isinstance(event, Milestone)]
        sets = [event.name for event in self._judged if isinstance(event, PromptSetScores)]
        scores = self.log.record.read_scores(final[-1].file) if final else None
        scores, sets = self.ranks.all_gather_object("judged", (scores, sets))[0]
        if scores is not None:
            evaluator.recall(update, scores)
        else:
            self.log.milestone(stages - 1, evaluator.judge(policy, update, final=True))
        for event in final:
            self.log.post_scores({name: summary.mean for name, summary in event.scores.items()})
        for judged in evaluator.prompt_sets(policy, update, without=sets):
            self.log.prompt_set(judged, evaluator.in_training(judged.of.prompts) if self.is_base else None)
        frame, pictures = evaluator.grid(policy, update), evaluator.pictures(policy)
        policy.unshard("cpu")  # nothing but its file is left to be made
        self.log.grid(frame)
        self.log.pictures(*pictures)
        model: dict[str, str] = {}
        if self.ranks.is_first:
            saved = [self.job.folder / "checkpoint" / "model", self.job.folder / "checkpoint" / "lora"]
            policy.save(saved[0])
            if stages > 1 or not policy.save_lora(saved[1]):  # those of the last stage alone do not lead to the result
                saved.pop()
            paths = [path for folder in saved for path in sorted(folder.rglob("*")) if path.is_file()]
            model = {path.relative_to(self.job.folder).as_posix(): file_sha256(path) for path in paths}
        self.log.done(model)
        if self.ranks.is_first:
            self.checkpoints.clear()
