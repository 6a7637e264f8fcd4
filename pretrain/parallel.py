"""Runs one stage in several one-thread processes that average their gradients over gloo."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def process_place() -> tuple[int, int]:
    """This process's rank and the number of processes of the stage."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _worker(rank: int, ranks: int, meeting: str, stage: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    wait = timedelta(hours=2)  # pictures are encoded, or a slow disk read, without a word in between
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=wait)
    try:
        stage(*arguments)
    finally:
        dist.destroy_process_group()


def run_in_workers(workers: int, stage: Callable[..., None], *arguments: object) -> None:
    """Call `stage(*arguments)` in so many processes, or here if it is one.

    Two processes of one thread beat one of two threads by 1.3 on the transformer.
    """
    if workers == 1:
        torch.set_num_threads(1)
        stage(*arguments)
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        mp.spawn(_worker, (workers, meeting, stage, arguments), nprocs=workers)
