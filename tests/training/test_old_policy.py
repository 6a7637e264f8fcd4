"""The old policy beside the trained one: how it follows, that it disturbs no graph, and who may ask for it."""

from __future__ import annotations

import pytest
import torch

from bench.api import PluginError
from bench.config.settings import Train
from bench.datasets.mixture import ClosedFormPolicy, Labels
from bench.preflight.conformance.closed_form_check import closed_form_stage
from bench.training.optimizer import Optimizer
from methods.diffusionnft import DiffusionNFT
from methods.sft import SFT


def parameter(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values))


def test_it_follows_by_its_decay_and_is_the_model_inside() -> None:
    p = parameter(1.0, 2.0)
    optimizer = Optimizer([p], Train(), keeps_old=True)
    with torch.no_grad():
        p.copy_(torch.tensor([3.0, 6.0]))
    with optimizer.old_weights():
        assert p.tolist() == [1.0, 2.0]
    assert p.tolist() == [3.0, 6.0]
    optimizer.update_old(0.75)
    with optimizer.old_weights():
        assert p.tolist() == [1.5, 3.0]  # .75*1 + .25*3, .75*2 + .25*6
    optimizer.update_old(0.0)
    with optimizer.old_weights():
        assert torch.equal(p, torch.tensor([3.0, 6.0]))


def test_a_pass_of_the_old_policy_leaves_a_waiting_graph_whole() -> None:
    p = parameter(2.0)
    optimizer = Optimizer([p], Train(), keeps_old=True)
    with torch.no_grad():
        p.fill_(5.0)
    loss = p**3  # its gradient needs the value of p
    with optimizer.old_weights(), torch.no_grad():
        assert (p**3).item() == 8.0
    loss.sum().backward()
    assert p.grad is not None and p.grad.item() == 75.0  # 3 p^2 at 5


def test_it_comes_back_from_a_checkpoint() -> None:
    first, second = parameter(1.0), parameter(9.0)
    one, other = (Optimizer([p], Train(), keeps_old=True) for p in (first, second))
    with torch.no_grad():
        first.fill_(3.0)
    one.update_old(0.5)
    other.load(one.tensors(), one.state_dict())
    with other.old_weights():
        assert second.item() == 2.0
    assert "old.0" not in Optimizer([first], Train()).tensors()


def test_only_who_needs_one_has_one() -> None:
    x, s, cond = torch.zeros(1, 2), torch.full((1,), 0.5), Labels(torch.zeros(1, dtype=torch.int64))
    without = closed_form_stage(SFT(SFT.Config()), ClosedFormPolicy.exact(), 1)
    with pytest.raises(PluginError, match=r"Needs\(old=True\)"):
        without.env.model.old_velocity(x, s, cond)
    with pytest.raises(PluginError, match=r"Needs\(old=True\)"):
        without.env.update_old(0.5)
    stage = closed_form_stage(DiffusionNFT(DiffusionNFT.Config()), ClosedFormPolicy.exact(), 1)
    with pytest.raises(PluginError, match="expected a number from 0"):
        stage.env.update_old(1.5)
    before = stage.limit.ledger.flops
    v = stage.env.model.old_velocity(x, s, cond)
    assert not v.requires_grad and torch.equal(v, stage.env.model.reference_velocity(x, s, cond))
    assert stage.limit.ledger.flops - before == 2.0  # a forward pass each, in the task's units
