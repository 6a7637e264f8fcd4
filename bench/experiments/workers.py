"""Worker processes, one for each cell: started, watched, and told apart by how they ended."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any, Protocol

from bench.api import BenchError, PluginError
from bench.config.job import CellJob
from bench.config.settings import BASE, Experiment
from bench.distributed.launch import RankInfo
from bench.experiments.watchdog import Watchdog
from bench.interrupts import children_hear_none
from bench.process_end import end_process, end_soon, plugin_stays
from bench.results.records.writer import CellRecord

TICK = 0.5  # seconds between two looks at the workers
# What every worker imports, sooner or later: the fork server does it once for all, which saves each a second.
PRELOADED = [
    "bench.experiments.cell",
    "bench.datasets.scenes.world",
    "diffusers.guiders",
    "diffusers.pipelines.stable_diffusion_3",
    "pandas",
    "pyarrow.parquet",
]


class EventHandler(Protocol):
    """Shows the events of all cells."""

    def handle(self, event: dict[str, Any]) -> None:
        """Take one event: {"cell": name, "event": kind, ...}."""


def alone(job: CellJob) -> RankInfo | None:
    """The place of a worker that trains its cell by itself."""
    return None


def run_all(
    todo: Sequence[CellJob], workers: int, display: EventHandler, place: Callable[[CellJob], RankInfo | None] = alone
) -> int:
    """Run these cells, at most `workers` at once, each in a process of its own; returns how many failed.

    `place` says, when a cell begins, where its worker stands among those of other processes that train it too.
    """
    context = _context()
    waiting, failed = list(reversed(todo)), 0
    running: dict[Connection, _Worker] = {}
    last = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                worker = _Worker(job, context, place(job))
                running[worker.receiver] = worker
            ready = wait(list(running), timeout=TICK)
            now = time.monotonic()
            for receiver, worker in list(running.items()):
                if receiver in ready and not worker.receive(display):
                    del running[receiver]
                    failed += worker.ended(display)
                elif receiver not in ready:  # its last word has been heard
                    worker.look(now - last)
            last = now
    finally:
        for worker in running.values():
            worker.process.terminate()
        for worker in running.values():
            worker.process.join()
    return failed


def run_alone(work: Callable[[Any, Connection], None], argument: Any) -> Any:
    """What `work(argument, sender)` sends from a worker process, so that this process need not import what it does.

    Raises:
        PluginError: the process ends without a word.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work_alone, args=(work, argument, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise PluginError(
            f"a worker ended with status {process.exitcode} before any cell began: expected methods and rewards that "
            "can be imported, so look for what ends the process in theirs"
        ) from None
    finally:
        receiver.close()
        process.kill()


def _context() -> ForkServerContext:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with children_hear_none():
        forkserver.ensure_running()
    return context


class _Worker:
    def __init__(self, job: CellJob, context: ForkServerContext, place: RankInfo | None) -> None:
        self.job = job
        self.writes = place is None or place.rank == 0
        self.watchdog = Watchdog(job.experiment.reward_seconds)
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(job, sender, place), name=job.name)
        self.process.start()
        sender.close()
        self._reason: str | None = None
        self._has_told = False

    def receive(self, display: EventHandler) -> bool:
        """Pass an event on; False where there will be no more."""
        try:
            event = self.receiver.recv()
        except (EOFError, ConnectionError):
            self.receiver.close()
            return False
        self._has_told |= event["event"] == "end"
        self._measure_memory()  # before the event is shown: a worker may end at any time after it
        if not self.watchdog.sees(event):
            display.handle(event)
        return True

    def look(self, seconds: float) -> None:
        """`seconds` have passed; end the worker where a reward hangs."""
        self._measure_memory()
        self.watchdog.tick(seconds)
        overdue = self.watchdog.overdue()
        if overdue and self._reason is None:
            self._reason = overdue
            self.process.kill()

    def _measure_memory(self) -> None:
        assert self.process.pid is not None
        self.watchdog.measure_memory(self.process.pid)

    def ended(self, display: EventHandler) -> int:
        """Look how the worker ended: 1 where it failed. Where it could not say so itself, it is recorded here."""
        self.process.join()
        code = self.process.exitcode or 0
        if self._has_told and code >= 0:
            return int(code != 0)
        reason = self._reason or (self._by_signal(-code) if code < 0 else self._without_a_word(code))
        try:
            if self.writes:
                _record_failure(self.job, reason)
        except BenchError as error:
            reason += f"; and its record could not be ended: {error}"
        display.handle({"cell": self.job.name, "event": "end", "status": "failed", "message": reason})
        return 1

    def _without_a_word(self, status: int) -> str:
        return (
            f"the worker of {self.job.name} ended with status {status} before its cell did: expected a plugin that "
            "returns or raises, so look for a call of exit() in its method and rewards"
        )

    def _by_signal(self, number: int) -> str:
        peak = self.watchdog.peak_mib
        held = f"it held {peak:,.0f} MiB at its peak" if peak is not None else "its peak memory is not known"
        reason = f"the worker of {self.job.name} was ended by {signal.Signals(number).name}; {held}"
        if number == signal.SIGKILL:
            reason += f". Often that is the system short of memory: {_less_memory(self.job, self.watchdog.phase)}"
        return f"{reason}. The same command goes on from its last checkpoint"


def _less_memory(job: CellJob, phase: str) -> str:
    """What to try for less memory in the phase that a worker was in."""
    experiment: Experiment = job.experiment
    if phase == "evaluate" or job.label == BASE:
        option, size = "evaluation.batch_size", experiment.evaluation.batch_size
    else:
        option = "train.micro_batch"
        size = min(min(s.train.micro_batch, s.train.batch_size) for s in experiment.stages(job.label))
    fewer = "try --workers 1, or " if experiment.workers > 1 else "try "
    return f"{fewer}--{option} {max(1, size // 2)} (now {size}) under another --name"


def _record_failure(job: CellJob, reason: str) -> None:
    from bench.device import describe_device
    from bench.experiments.resume import cell_header

    record = CellRecord(job.folder)
    if record.status() == "new":
        record.start(cell_header(job, describe_device(job.experiment.device)))
    if record.status() == "unfinished":
        record.end_failed(reason)


# In the worker


def _work_alone(work: Callable[[Any, Connection], None], argument: Any, sender: Connection) -> None:
    """A worker process without a cell."""
    work(argument, sender)


def _work(job: CellJob, sender: Connection, place: RankInfo | None) -> None:
    """A worker process: one cell, or this process's part of it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.register_at_fork(after_in_child=sender.close)  # what a plugin forks neither speaks for this process nor is heard
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from bench.distributed.ranks import SINGLE_PROCESS, ProcessGroup
    from bench.experiments.cell import run_cell

    has_told, status = False, 1

    def post(event: dict[str, Any]) -> None:
        nonlocal has_told
        has_told |= event["event"] == "end"
        try:
            sender.send(event)
        except BrokenPipeError:  # nobody listens any more
            end_process(1)

    try:
        ranks = SINGLE_PROCESS if place is None else ProcessGroup(place)
        with plugin_stays(job.name):  # what a plugin forks opens no record of its own either
            run_cell(job, post, ranks)
        ranks.leave()
        status = 0
    except BenchError as error:
        if not has_told:  # the cell could not even be opened, so its record is left alone
            post({"cell": job.name, "event": "end", "status": "failed", "message": str(error)})
        raise SystemExit(1) from None
    except Exception:  # a bug, not a user's mistake: told with its whole trace, recorded, and the worker exits with 1
        trace = traceback.format_exc()
        reason = f"unexpected error: {trace.strip().splitlines()[-1]}"
        try:
            record = CellRecord(job.folder)
            if record.status() == "unfinished" and (place is None or place.rank == 0):
                record.end_failed(reason)
        finally:  # told even where it cannot be recorded
            post({"cell": job.name, "event": "end", "status": "failed", "message": f"{reason}\n{trace}"})
        raise SystemExit(1) from None
    finally:
        sender.close()
        end_soon(status)  # a plugin's thread, or its child, may live on


def _end_with_parent() -> None:
    """End this process as soon as the run that started it has ended, however that ended: nobody would own its work."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    end_process(1)
