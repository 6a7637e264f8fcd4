"""The part of a rehearsal that times the published scorers: pictures a second and memory of each, random weights."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing as mp
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import registry
from bench.api import BenchError, Reward
from bench.config.settings import Experiment
from bench.device import resolve_device
from bench.interrupts import children_hear_none
from bench.scoring.scorer import Scorer

Findings = dict[str, Any]

SIDE = 512  # pixels of a picture
_BATCH = {"cuda": 32, "cpu": 1}
_SECONDS, _MOST = 10.0, 20  # batches are scored for so long, or so many of them at most
_EXAMPLE = ('a sign that says "Open"', {"text": "Open"})


def rehearse_rewards(experiment: Experiment, _: float) -> Findings:
    """Each published scorer in a process of its own, on random weights of real size; `shrunken` for that model.

    Pictures are 512 x 512 noise. `load_seconds` begin after the imports. `host_gib` is the most memory that the
    scorer's processes held, libraries included; `device_gib` what the device holds for them after the last batch. A
    scorer that cannot run here says why.
    """
    device, rewards = (
        resolve_device(experiment.device).type,
        map(registry.load_reward, registry.names(registry.REWARDS)),
    )
    return {
        reward.name: _measure_random_weights(reward, device, shrunken=experiment.model == "shrunken")
        for reward in rewards
        if reward.random_weights
    }


def _measure_random_weights(reward: type[Reward], device: str, *, shrunken: bool) -> Findings:
    """Written here, scored there: the memory that random weights took to make is not the scorer's."""
    module, _, function = reward.random_weights.partition(":")
    write = getattr(importlib.import_module(module), function)

    hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}  # scorers take a GPU where they see one
    with (
        tempfile.TemporaryDirectory() as folder,
        _environment(BENCH_WEIGHTS=folder, HF_HUB_OFFLINE="1", BENCH_IMAGEREWARD_DEVICE=device, **hidden),
    ):
        try:
            write(reward.name, shrunken=shrunken)
        except BenchError as error:
            return {"failed": str(error)}
        return _measure_in_fresh_process(reward.name, device)


def _measure_in_fresh_process(name: str, device: str) -> Findings:
    """What `measure` finds in a fresh process."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure_into, args=(theirs, name, device), daemon=True)
    with children_hear_none():
        process.start()
    theirs.close()
    try:
        found: Findings = ours.recv()
    except EOFError:
        process.join()
        return {"failed": f"its process ended with status {process.exitcode}"}
    process.join()
    return found


def _measure_into(answer: Connection, name: str, device: str) -> None:
    reward = registry.load_reward(name)()
    try:
        found = measure_reward(reward, device)
    except BenchError as error:
        found = {"failed": str(error)}
    answer.send(found | {"host_gib": peak_gib()})  # while `reward` keeps the process that it may have


def peak_gib() -> float:
    """The most memory that this process and each that it has started and that still runs have held.

    getrusage would count what their parents held when they began, and only those that have ended.
    """
    started = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
    return sum(_peak_kib(process) for process in ("self", *started)) / 2**20


def _peak_kib(process: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure_reward(reward: Reward, device: str, enough: float = _SECONDS) -> Findings:
    """Speed of a scorer, timed for about `enough` seconds, and what it holds on the device."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
    begin = time.perf_counter()
    reward.load()
    loaded = time.perf_counter() - begin
    batch = _BATCH[device]
    images = np.random.Generator(np.random.Philox(0)).integers(0, 256, (batch, SIDE, SIDE, 3), np.uint8)
    chosen = list(itertools.islice(itertools.cycle(reward.examples or (_EXAMPLE,)), batch))
    prompts, metadata = [prompt for prompt, _ in chosen], [about for _, about in chosen]
    scorer, seconds = Scorer(reward), list[float]()
    scorer(images, prompts, metadata)  # warms up
    while not seconds or (len(seconds) < _MOST and sum(seconds) < enough):
        begin = time.perf_counter()
        scorer(images, prompts, metadata)  # its scores are numpy's, so the device has ended
        seconds.append(time.perf_counter() - begin)
    held = (free - torch.cuda.mem_get_info()[0]) / 2**30 if device == "cuda" else None
    return {
        "pictures_per_second": batch / statistics.median(seconds), "batch": batch, "batches": len(seconds),
        "load_seconds": loaded, "device_gib": held,
    }  # fmt: skip


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for the block, and for processes that start within it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
