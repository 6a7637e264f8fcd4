"""DRaFT-K on the closed-form world, against its gradient written out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bench.api import ConfigError
from methods.draft import DRaFT
from tests.support.closed_form import ClosedFormEnv

SMALL = DRaFT.Config(prompts=4, sampling_steps=4)


def draft(**options: object) -> DRaFT:
    return DRaFT(dataclasses.replace(SMALL, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("last", "guidance"), [(1, 1.0), (2, 1.0), (4, 2.0)])
def test_the_update_goes_through_the_last_steps_alone(last: int, guidance: float) -> None:
    env, twin = (ClosedFormEnv(micro_batch=3) for _ in range(2))
    prompts, index = twin.draw.prompts(4)
    cond, x, sigmas = (
        twin.model.encode([p.text for p in prompts]),
        twin.draw.noise(index, "rollout"),
        twin.model.sigmas(4),
    )
    for i in range(4):
        if i == 4 - last:
            x = x.detach()
        s = sigmas[i].expand(4)
        v = twin.model.field(x, s, cond.label)
        if guidance != 1:
            v_u = twin.model.field(x, s, torch.full((4,), -1))
            v = v_u + guidance * (v - v_u)
        x = x + (sigmas[i + 1] - sigmas[i]) * v
    reward = ((128 + 32 * x[:, 0]) / 255).mean()
    (-reward).backward()
    twin.optimizer.step()

    before = env.weights
    metrics = draft(last_steps=last, guidance=guidance).step(env)
    assert metrics["negative_reward"] == pytest.approx(-reward.item(), rel=1e-5)
    assert (env.weights - before).abs().max() > 1e-4
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-6)
    branches = 1 if guidance == 1 else 2
    assert env.model.passes == {"grad": branches * 4 * last, "no_grad": branches * 4 * (4 - last), "reference": 0}


def test_the_reward_rises() -> None:
    env = ClosedFormEnv(optimizer=torch.optim.Adam, lr=0.05)
    rewards = [draft().step(env)["negative_reward"] for _ in range(40)]
    assert np.mean(rewards[-5:]) < np.mean(rewards[:5]) - 0.05


def test_more_last_steps_than_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at most 4"):
        draft(last_steps=5)
