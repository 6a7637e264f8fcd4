"""All cells of an experiment: tasks x methods x seeds as parallel worker processes."""

from __future__ import annotations

import fcntl
import json
import multiprocessing as mp
import os
import signal
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from bench import registry
from bench.api import BenchError, DataError
from bench.job import CellJob
from bench.record import CellRecord, read_experiment_header, write_experiment_header
from bench.schema import ExperimentHeader, ScorerInfo, TaskInfo, config_hash, dump
from bench.settings import BASE, Experiment

# Which gold scorer a proxy stands for.
_PAIRS = {
    "scenes-clip": "scenes-geneval",
    "scenes-ocr-net": "scenes-ocr",
    "scenes-aesthetic-head": "scenes-aesthetic",
}


class Display(Protocol):
    """Shows the events of all cells."""

    def handle(self, event: dict[str, Any]) -> None:
        """Take one event: {"cell": name, "event": kind, ...}."""


def jobs(experiment: Experiment, results: Path) -> list[CellJob]:
    """Every cell: the bases first, then methods with all tasks and seeds, seed by seed."""
    cells = [CellJob(experiment, results, task.name, BASE, 0) for task in experiment.tasks]
    return cells + [
        CellJob(experiment, results, task.name, chain.label, seed)
        for seed in experiment.seeds
        for task in experiment.tasks
        for chain in experiment.methods
        if chain.label != BASE
    ]


def run(experiment: Experiment, results: Path, workers: int, display: Display, command: str = "") -> int:
    """Run what is not done yet; returns the number of failed cells. `command` is what asked for it, for the report.

    Raises:
        DataError: another process holds the results folder, or it belongs to another configuration.
        KeyboardInterrupt: passed on after the workers have ended; the same command goes on from their checkpoints.
    """
    folder = results / experiment.name
    with _lock(folder):
        todo = [job for job in jobs(experiment, results) if not _is_done(job)]
        write_experiment_header(folder, header(experiment, folder, command if todo else ""))
        if not todo:
            print(f"all cells are recorded in {folder}: nothing to run; another --name runs them afresh")
        for job in todo:
            display.handle({"cell": job.name, "event": "queue"})
        bases = [job for job in todo if job.label == BASE]
        failed = _run_all(bases, workers, display)
        return failed + _run_all([job for job in todo if job.label != BASE], workers, display)


def _is_done(job: CellJob) -> bool:
    """Whether the cell needs no run; raises DataError where it was recorded with other settings."""
    record = CellRecord(job.folder)
    if record.status() != "done":
        return False
    held, asked = record.events()[0], config_hash(job.experiment.cell_config(job.task, job.label))
    if getattr(held, "config_hash", None) != asked:
        raise DataError(
            f"{job.folder} was recorded with other settings than those asked for now: give this run another --name, or "
            "remove that folder"
        )
    return True


def header(experiment: Experiment, folder: Path, command: str = "") -> ExperimentHeader:
    """What the folder compares: what it held before, and what this run adds to it."""
    shared = experiment.resolved()
    for name in ("name", "label", "question", "workers", "tasks", "methods", "seeds", "train", "baseline"):
        shared.pop(name)
    tasks = {
        t.name: TaskInfo(
            primary=t.primary, reward=t.reward, filter=t.select, scorers=t.scorers, title=t.title,
            margins={name: margin for name, margin in t.margins.items() if name in t.scorers},
        )
        for t in experiment.tasks
    }  # fmt: skip
    scorers = {name: _scorer_info(experiment, name) for task in experiment.tasks for name in task.scorers}
    methods = tuple(chain.label for chain in experiment.methods if chain.label != BASE)
    if (folder / "experiment.json").exists():
        held = read_experiment_header(folder)
        tasks, scorers = {**held.tasks, **tasks}, {**held.scorers, **scorers}
        methods = (*held.methods, *(m for m in methods if m not in held.methods))
        command = held.command if command in held.command else f"{held.command} && {command}"
    return ExperimentHeader(
        name=experiment.name, label=experiment.label, question=experiment.question, config=shared,
        config_hash=config_hash(shared), tasks=tasks, methods=methods, scorers=scorers, budget=experiment.budget,
        baseline=experiment.baseline, trials=experiment.tuning_trials, command=command,
    )  # fmt: skip


def _scorer_info(experiment: Experiment, name: str) -> ScorerInfo:
    reward = registry.load_reward(name)
    margins = [task.margins[name] for task in experiment.tasks if name in task.margins]
    return ScorerInfo(
        gold=reward.gold, margin=margins[0] if margins else None, pair=_PAIRS.get(name),
        higher_is_better=reward.higher_is_better, range=reward.range, version=reward.version,
    )  # fmt: skip


def _run_all(todo: list[CellJob], workers: int, display: Display) -> int:
    """Run these cells, at most `workers` at once, each in a process of its own; returns how many failed."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["bench.runner", "diffusers.pipelines.stable_diffusion_3"])
    waiting, failed = list(reversed(todo)), 0
    running: dict[Connection, tuple[CellJob, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                worker = context.Process(target=_work, args=(job, sender), name=job.name)
                worker.start()
                sender.close()
                running[receiver] = (job, worker)
            ready = wait(list(running))
            for receiver in [r for r in running if r in ready]:
                job, process = running[receiver]
                try:
                    display.handle(receiver.recv())
                except EOFError:
                    del running[receiver]
                    receiver.close()
                    failed += _ended(job, process, display)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    return failed


def _ended(job: CellJob, process: BaseProcess, display: Display) -> int:
    """Look how a worker ended: 1 where it failed. One that a signal ended can be resumed, so its record stays open."""
    process.join()
    if process.exitcode == 0:
        return 0
    if process.exitcode is not None and process.exitcode < 0:
        name = signal.Signals(-process.exitcode).name
        reason = f"the worker of {job.name} was ended by {name}"
        if name == "SIGKILL":
            reason += "; often that is the system short of memory: try fewer workers or a smaller train.micro_batch"
        display.handle({"cell": job.name, "event": "end", "status": "failed", "message": reason})
    return 1


def _work(job: CellJob, sender: Connection) -> None:
    """A worker process: one cell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from bench.runner import run_cell

    try:
        run_cell(job, sender.send)
    except BenchError:
        raise SystemExit(1) from None  # told and recorded
    except Exception:  # a bug, not a user's mistake: told with its whole trace, recorded, and the worker exits with 1
        trace = traceback.format_exc()
        reason = f"unexpected error: {trace.strip().splitlines()[-1]}"
        record = CellRecord(job.folder)
        if record.status() == "unfinished":
            record.append("end", status="failed", reason=reason, ledger=_last_ledger(record))
        sender.send({"cell": job.name, "event": "end", "status": "failed", "message": f"{reason}\n{trace}"})
        raise SystemExit(1) from None
    finally:
        sender.close()


def _last_ledger(record: CellRecord) -> dict[str, Any]:
    from bench.budget import Ledger

    for event in reversed(record.events()):
        if hasattr(event, "ledger"):
            return dump(event.ledger)
    return Ledger().facts()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold a results folder; the system lets go of it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            held = file.read()
            who = json.loads(held) if held else {}
            raise DataError(
                f"{folder} is held by process {who.get('pid', '?')} on {who.get('host', '?')} since "
                f"{who.get('since', '?')}: wait for it, stop it, or give this run another --name"
            ) from error
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        file.flush()
        yield
