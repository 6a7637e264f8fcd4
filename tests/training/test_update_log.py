"""What an update logs: means, one wait for the device, and losses that are not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.api import NonFiniteError
from bench.config.settings import Train
from bench.datasets.worlds import load_world
from bench.preflight.conformance.fixtures import Fixtures
from bench.training.update_log import Fetched, UpdateLog, means
from methods.sft import SFT

WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}


class CountWaits(TorchDispatchMode):
    """Operations for whose result the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_means_are_over_the_samples_of_all_ranks() -> None:
    first, second = UpdateLog(), UpdateLog()
    first.add("a", torch.tensor([1.0, 2.0]))
    first.add("a", torch.tensor([6.0]))
    second.add("a", torch.tensor([11.0]))
    second.add("b", torch.tensor([0.5]))
    first.add_total(torch.tensor(0.25))
    first.add_total(torch.tensor(0.5))
    told = [first.fetch(torch.tensor(4.0)), second.fetch(torch.tensor(4.0)), UpdateLog().fetch()]
    assert told[0] == Fetched(4.0, 0.75, {"a": (9.0, 3)})
    assert means(told) == {"a": 5.0, "b": 0.5}


def test_the_first_loss_that_is_not_finite_is_told_and_kept() -> None:
    log = UpdateLog()
    log.add_loss("base", torch.tensor([1.0, 2.0]), None)
    log.add_loss("aux", torch.tensor([1.0, math.nan, math.inf]), None)
    complaint = log.fetch(torch.tensor(1.0)).complaint
    assert complaint == ("loss 'aux': expected finite values, but 2 of 3 samples are NaN or infinite (positions 1, 2)")
    assert list(log.non_finite) == ["loss.aux"]


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_an_update_waits_for_nothing_but_its_log(tiny_pipeline: Path, adaptation: str) -> None:
    """All that it logs comes as one list, which is fetched without an operation that could be counted here."""
    with CountWaits() as waits:
        float(torch.ones(()))
    assert len(waits.seen) == 1
    fixtures = Fixtures(load_world("scenes", str(tiny_pipeline)))
    stage = fixtures.stage(SFT, {}, Train(batch_size=8, micro_batch=4, adaptation=adaptation))
    stage.advance()
    with CountWaits() as waits:
        stage.advance()
    assert waits.seen == []


@pytest.mark.slow
def test_nothing_is_changed_by_an_update_whose_loss_is_not_finite(tiny_pipeline: Path) -> None:
    fixtures = Fixtures(load_world("scenes", str(tiny_pipeline)))
    stage = fixtures.stage(SFT, {}, Train(batch_size=8, micro_batch=4))
    stage.advance()
    before = {name: tensor.clone() for name, tensor in stage.env.optimizer.tensors().items()}
    backward, calls = stage.env.backward, []

    def poisoned(terms: Any, count: float) -> None:
        calls.append(stage.env.draw.latest)
        ((weight, loss),) = terms.values()
        backward({"base": (weight, loss * (math.nan if len(calls) == 1 else 1.0))}, count)

    stage.env.backward = poisoned  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="loss 'base': expected finite values, but 4 of 4 samples"):
        stage.advance()
    assert len(calls) == 2 and stage.env.log.failed_on is calls[0], "the batch of that loss, not the latest"
    after = stage.env.optimizer.tensors()
    assert all(torch.equal(after[name], before[name]) for name in before)
