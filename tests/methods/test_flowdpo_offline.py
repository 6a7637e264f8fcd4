"""Flow-DPO on pairs of a data set, against its formula written out by hand and against the online method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.api import PluginError
from methods.flowdpo_offline import FlowDPOOffline
from tests.support.closed_form import ClosedFormEnv, train


def made(beta: float = 3.0) -> FlowDPOOffline:
    return FlowDPOOffline(FlowDPOOffline.Config(beta=beta))


def moved(**options: int) -> ClosedFormEnv:
    """An environment with pairs whose policy has left the reference."""
    env = ClosedFormEnv(pairs=True, batch_size=8, **options)
    with torch.no_grad():
        env.model.field.means.add_(0.1)
    return env


def test_the_update_is_that_of_the_logistic_loss() -> None:
    env, twin = moved(), moved()
    model, losses = twin.model, []
    (batch,) = twin.draw.batches()
    assert batch.rejected is not None
    for row in range(8):
        index = np.array([batch.index[row]])
        z1, s = twin.draw.noise(index), twin.draw.sigma(index)
        gains = []
        for z0 in (batch.z0[row : row + 1], batch.rejected[row : row + 1]):
            z, u, label = (1 - s) * z0 + s * z1, z1 - z0, batch.cond.label[row : row + 1]  # type: ignore[attr-defined]
            e_ref = (model.reference(z, s, label).detach() - u).square().mean()
            gains.append((model.field(z, s, label) - u).square().mean() - e_ref)
        losses.append(torch.log(1 + torch.exp(3.0 / 2 * (gains[0] - gains[1]))))
    loss = torch.stack(losses).mean()
    before = env.weights
    loss.backward()
    twin.optimizer.step()
    metrics = made().step(env)
    assert (env.weights - before).abs().max() > 1e-4
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-6)
    assert metrics["dpo"] == pytest.approx(loss.item(), rel=1e-5)
    assert env.model.passes == {"grad": 16, "no_grad": 0, "reference": 16}


def test_at_the_reference_no_pair_is_learnt_and_chosen_ones_gain() -> None:
    env = ClosedFormEnv(pairs=True, batch_size=8)
    history = train(made(), env, 20)
    assert history[0]["dpo"] == pytest.approx(np.log(2), rel=1e-6)
    assert history[-1]["dpo"] < history[0]["dpo"] - 0.01


def test_micro_batches_do_not_change_the_update() -> None:
    """Up to the order of a sum of 8 float32 terms of size 1."""
    whole, parts = moved(), moved(micro_batch=3)
    before = whole.weights
    expected, actual = train(made(), whole, 2), train(made(), parts, 2)
    assert (whole.weights - before).abs().max() > 1e-5
    torch.testing.assert_close(parts.weights, whole.weights, rtol=0, atol=2e-6)
    for a, b in zip(expected, actual, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_pictures_without_rejected_ones_are_refused() -> None:
    with pytest.raises(PluginError, match="trains on pairs alone"):
        made().step(ClosedFormEnv())
