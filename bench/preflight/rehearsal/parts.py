"""The parts of a rehearsal: passes, methods with LoRA or all weights, a kill and a resume, scorers; with findings."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from bench.api import BenchError
from bench.budget import Budget, Ledger
from bench.config.job import CellJob
from bench.config.settings import Chain, Experiment
from bench.config.settings import StageSettings as StageSettings
from bench.datasets.worlds import experiment_world
from bench.device import MemoryShortError
from bench.experiments.cell import run_cell
from bench.interrupts import children_hear_none
from bench.models.policy import PipelinePolicy
from bench.preflight.rehearsal.measure import measure_passes, read_device
from bench.preflight.rehearsal.rewards import rehearse_rewards
from bench.results.records.schema import End
from bench.results.records.writer import CellRecord
from bench.scoring.loading import Placement, load_scorers
from bench.training.checkpoint import Checkpoints
from bench.training.context import TaskContext
from bench.training.evaluate import Evaluator
from bench.training.stage import Stage, StageStart

Findings = dict[str, Any]
Adaptation = Literal["lora", "full"]
ADAPTATIONS: tuple[Adaptation, ...] = ("lora", "full")
_ENDLESS = Budget(1e18, "cost")
_PATIENCE = 300.0  # seconds until the first checkpoint of a cell that is to be killed
_CYCLES = 2  # rollout phases, or as many pairs of updates; the first one warms up


def rehearse_passes(experiment: Experiment, peak: float) -> Findings:
    """The denoiser's passes under each kind of training; with gradient checkpointing where they do not fit without."""
    found: Findings = {}
    for adaptation in ADAPTATIONS:
        for again in (False, True):
            train = dataclasses.replace(experiment.train, adaptation=adaptation, gradient_checkpointing=again)
            name = f"{adaptation}, gradient checkpointing" if again else adaptation
            policy = PipelinePolicy.of(experiment, experiment_world(experiment))
            try:
                found[name] = measure_passes(policy, train, peak)
                break
            except MemoryShortError as error:  # a finding too
                found[name] = {"failed": str(error)}
            finally:
                del policy
                _free_device_memory()
    return found


def rehearse_methods(experiment: Experiment, peak: float, adaptation: Adaptation) -> Findings:
    """A few updates of every method, an evaluation, a checkpoint there and back, and the result's files.

    With all weights a checkpoint takes minutes and 25 GB, whatever the method: the first one's has to do.
    """
    found: Findings = {}
    for number, chain in enumerate(experiment.methods):
        (settings,) = chain.stages
        returns = adaptation == "lora" or number == 0
        found[chain.label] = _rehearse_method(experiment, _with_adaptation(settings, adaptation), peak, returns=returns)
        _free_device_memory()
    return found


def _rehearse_method(experiment: Experiment, settings: StageSettings, peak: float, *, returns: bool) -> Findings:
    """`returns`: whether a checkpoint is taken there and back."""
    world, task, ledger = experiment_world(experiment), experiment.tasks[0], Ledger()
    names = {*task.scorers, *experiment.evaluation.set_scorers, task.reward, task.select}
    scorers = load_scorers(names, placement=Placement.of(experiment))
    policy = PipelinePolicy.of(experiment, world)
    unit = policy.measure_flops().forward
    context = TaskContext(world, task, policy, scorers)
    evaluator = Evaluator(context, experiment.evaluation)
    with tempfile.TemporaryDirectory() as folder:
        with read_device(policy.device) as entered:
            stage = Stage.enter(StageStart(settings, _ENDLESS), context, ledger, unit)
        found: Findings = {"enter": _rounded(entered), "updates": _updates(stage, ledger, policy.device, peak)}
        evaluator.judge(policy, 1, final=False)  # compiles
        with read_device(policy.device) as judged:
            evaluator.judge(policy, 2, final=False)
        found["evaluation"] = _rounded(judged)
        if returns:
            found["checkpoint"] = _checkpoint_round_trip(stage, policy.device, Path(folder) / "checkpoint")
        stage.leave()
        with read_device(policy.device) as saved:
            policy.save(Path(folder) / "model")
            found["lora_saved"] = policy.save_lora(Path(folder) / "lora")
        found["save"] = _rounded(saved)
    return found


def _updates(stage: Stage, ledger: Ledger, device: torch.device, peak: float) -> Findings:
    """Seconds and cost of one update, rollouts shared out over the updates that they serve."""
    for _ in range(_CYCLES):
        before, count = dataclasses.replace(ledger), 0
        with read_device(device) as cycle:
            while count == 0 or not _ends(stage, count):
                stage.advance()
                count += 1
    flops, images = ledger.flops - before.flops, ledger.spent("images") - before.spent("images")
    return {
        "seconds": cycle.seconds / count, "gib": cycle.gib, "cost": (ledger.cost - before.cost) / count,
        "samples_per_second": images / cycle.seconds, "tflops": flops / cycle.seconds / 1e12,
        "utilisation": flops / cycle.seconds / peak,
    }  # fmt: skip


def _ends(stage: Stage, count: int) -> bool:
    rollouts = stage.env.rollouts
    return count >= 2 if rollouts is None else rollouts.used >= rollouts.updates


def _checkpoint_round_trip(stage: Stage, device: torch.device, folder: Path) -> Findings:
    """Save, read and load a checkpoint; what comes back has to be what was stored, bit for bit."""
    checkpoints, kept = Checkpoints(folder), {n: t.detach().cpu().clone() for n, t in stage.tensors().items()}
    with read_device(device) as saved:
        checkpoints.save(1, stage.tensors(), {"inside": stage.state_dict()})
    size = sum(path.stat().st_size for path in folder.iterdir())
    with torch.no_grad():
        for parameter in stage.env.optimizer.parameters:
            parameter.zero_()
    with read_device(device) as loaded:
        found, complaints = checkpoints.load()
        if found is None:
            raise BenchError(f"the checkpoint just written is not good: {'; '.join(complaints)}")
        stage.load(found.tensors, found.state["inside"])
    now = stage.tensors()
    changed = [name for name, t in kept.items() if not torch.equal(t, now[name].detach().cpu())]
    if changed or len(now) != len(kept):
        raise BenchError(
            f"{len(changed)} of {len(kept)} tensors changed on their way through a checkpoint: {changed[:3]}"
        )
    return {"save_seconds": round(saved.seconds, 2), "load_seconds": round(loaded.seconds, 2), "bytes": size}


def rehearse_resume(experiment: Experiment, _: float) -> Findings:
    """A cell that is killed after its first checkpoint, and run again by another process to its end.

    Nothing is compiled: that would take each of the two processes longer than all else, and is no matter here.
    """
    (settings,) = experiment.methods[0].stages
    chain = Chain(settings.name, (_with_adaptation(settings, "lora"),))
    runtime = dataclasses.replace(experiment.runtime, compile=False)
    experiment = dataclasses.replace(experiment, methods=(chain,), runtime=runtime)
    with tempfile.TemporaryDirectory() as folder:
        job = CellJob(experiment, Path(folder), experiment.tasks[0].name, chain.label, 0)
        first = _start_cell(job)
        begun = time.monotonic()
        while not list((job.folder / "checkpoint").glob("[0-9]*.json")):
            if not first.is_alive() or time.monotonic() - begun > _PATIENCE:
                first.kill()
                raise BenchError(f"{job.name} made no checkpoint within {_PATIENCE:g} s: {_recorded_end(job)}")
            time.sleep(0.05)
        first.kill()
        first.join()
        killed = len(CellRecord(job.folder).events())
        again = time.monotonic()
        second = _start_cell(job)
        second.join()
        events = CellRecord(job.folder).events()
        end = events[-1]
        if second.exitcode or not isinstance(end, End) or end.status != "done":
            raise BenchError(f"{job.name} did not go on to its end after it was killed: {_recorded_end(job)}")
        return {
            "seconds_until_killed": round(again - begun, 1), "seconds_of_the_rest": round(time.monotonic() - again, 1),
            "events_when_killed": killed, "events": len(events), "updates": end.ledger.updates,
        }  # fmt: skip


def _start_cell(job: CellJob) -> mp.process.BaseProcess:
    process = mp.get_context("spawn").Process(target=run_cell, args=(job, _ignore_event), daemon=True)
    with children_hear_none():
        process.start()
    return process


def _recorded_end(job: CellJob) -> str:
    """Why a cell came to no end, as its record has it: its folder goes when the rehearsal ends."""
    events = CellRecord(job.folder).events()
    end = events[-1] if events else None
    return str(end.reason) if isinstance(end, End) else "it was still at work, or ended without a word"


def _ignore_event(event: dict[str, Any]) -> None:
    """Takes the events of a cell that nobody looks at."""


def _with_adaptation(settings: StageSettings, adaptation: Adaptation) -> StageSettings:
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, adaptation=adaptation))


def _rounded(one: Any) -> Findings:
    return {"seconds": round(one.seconds, 3), "gib": one.gib}


def _free_device_memory() -> None:
    """Give the memory of what is gone back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


PARTS: dict[str, Callable[[Experiment, float], Findings]] = {
    "passes": rehearse_passes,
    "lora": partial(rehearse_methods, adaptation="lora"),
    "full": partial(rehearse_methods, adaptation="full"),
    "resume": rehearse_resume,
    "rewards": rehearse_rewards,
}
