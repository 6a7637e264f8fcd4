"""Processes that train a cell together, as torchrun would start them, without torchrun's own seconds."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

from bench.config.job import CellJob
from bench.distributed.launch import RankInfo
from bench.experiments.workers import PRELOADED


def places(size: int) -> list[RankInfo]:
    """Fresh places of `size` processes on this machine, the first of which keeps the meeting place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [RankInfo(rank, size, rank, "127.0.0.1", port, hosts=rank == 0, key="test") for rank in range(size)]


def together(size: int, work: Callable[..., None], *args: Any) -> list[int | None]:
    """Run `work(place, *args)` in `size` processes at once; returns their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    processes = [context.Process(target=work, args=(place, *args)) for place in places(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    return [process.exitcode for process in processes]


def train_together(place: RankInfo, job: CellJob) -> None:
    """This process's part of a cell."""
    from bench.distributed.ranks import ProcessGroup
    from bench.experiments.cell import run_cell

    ranks = ProcessGroup(place)
    run_cell(job, lambda event: None, ranks)
    ranks.leave()


def train_in_turn(place: RankInfo, jobs: list[CellJob]) -> None:
    """This process's part of several cells."""
    store = place.store()  # where all of them meet, as long as the first process lives
    for number, job in enumerate(jobs):
        train_together(place.for_cell(number), job)
    del store


def lose_one(place: RankInfo, job: CellJob, kind: str, number: int) -> None:
    """The same with a checkpoint after every update; the last process is killed before its `number`-th event."""
    from bench.distributed.ranks import ProcessGroup
    from bench.experiments import cell as runner
    from tests.stress.kill import killed_at

    runner.CHECKPOINT_SECONDS = 0.0
    last = place.rank == place.size - 1
    runner.run_cell(job, killed_at(kind, number) if last else lambda event: None, ProcessGroup(place))
