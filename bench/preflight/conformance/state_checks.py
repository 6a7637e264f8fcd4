"""The checks of a method's state: what a checkpoint holds is all that matters."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.preflight.conformance.check import Mismatch, Suite
from bench.preflight.conformance.fixtures import MethodSubject, for_each_adaptation
from bench.training.checkpoint import Checkpoints
from bench.training.stage import Stage

SUITE = Suite[MethodSubject]()

STOPS = (1, 2)  # within the rollouts of the smallest settings that serve two updates, and after them
LAST = 4


@SUITE.check(
    "state-round-trip", "a checkpoint that forgets a counter or the rollouts is found out days later, when it is needed"
)
def state_round_trip(subject: MethodSubject) -> None:
    """State and tensors, the rollout buffer included, come back from a checkpoint as they were stored."""
    with tempfile.TemporaryDirectory() as folder:
        stage = subject.stage()
        stage.advance()
        tensors, state = _snapshot(stage)
        Checkpoints(Path(folder)).save(1, tensors, state)
        loaded = _restored(subject, Path(folder))
        again, state_again = _snapshot(loaded)
    different = [name for name in tensors.keys() | again.keys() if not _same(tensors.get(name), again.get(name))]
    different += [name for name in state if state[name] != state_again[name]]
    if different:
        raise Mismatch("the state that was stored", f"another one in {', '.join(sorted(different))}")


@SUITE.check("resume", "a run that was interrupted has to be the run that was not, or its record means nothing")
@for_each_adaptation
def resume(subject: MethodSubject) -> None:
    """Weights, moments, metrics and ledger after an interruption equal those of the uninterrupted run bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        stage = subject.stage()
        metrics = []
        for update in range(1, LAST + 1):
            metrics.append(stage.advance())
            if update in STOPS:
                Checkpoints(Path(folder) / str(update)).save(update, *_snapshot(stage))
        whole, _ = _snapshot(stage)
        for stop in STOPS:
            resumed = _restored(subject, Path(folder) / str(stop))
            again = [resumed.advance() for _ in range(LAST - stop)]
            tensors, _ = _snapshot(resumed)
            different = [name for name in whole if not _same(whole[name], tensors.get(name))]
            if different or again != metrics[stop:]:
                raise Mismatch(
                    f"the uninterrupted run bit for bit after a resume at update {stop}",
                    f"{len(different)} of {len(whole)} tensors and {'the same' if again == metrics[stop:] else 'other'}"
                    " metrics: does state_dict hold all that the method keeps?",
                )


def _snapshot(stage: Stage) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return {name: t.detach().clone() for name, t in stage.tensors().items()}, stage.state_dict()


def _restored(subject: MethodSubject, folder: Path) -> Stage:
    """A new stage, with a new method, that goes on from the checkpoint in a folder."""
    saved, complaints = Checkpoints(folder).load()
    if saved is None:
        raise Mismatch("a readable checkpoint", "; ".join(complaints) or "none")
    stage = subject.stage()
    stage.load(saved.tensors, saved.state)
    return stage


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)
