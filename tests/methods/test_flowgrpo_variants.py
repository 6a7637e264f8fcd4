"""DanceGRPO, MixGRPO, CPS and GRPO-Guard as settings of Flow-GRPO, on the closed-form world."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from bench import flow
from bench.api import ConfigError
from bench.parsing import values_before
from methods.flowgrpo import FlowGRPO
from tests.support.closed_form import ClosedFormEnv, train

SMALL = FlowGRPO.Config(num_groups=2, num_generations=6, sampling_steps=6, updates=1)


def flowgrpo(**options: object) -> FlowGRPO:
    return FlowGRPO(dataclasses.replace(SMALL, **options))  # type: ignore[arg-type]


def brightness(images: np.ndarray) -> np.ndarray:
    """Grey level of the first coordinate: rises with x."""
    return images[:, 0, 0, 0] / 255


@pytest.mark.parametrize(
    "options", [{"noise": "dance", "noise_level": 0.3}, {"noise": "cps"}, {"ratio_normalisation": True}]
)
def test_the_replayed_ratio_is_one_and_leaves_one_after_an_update(options: dict[str, object]) -> None:
    history = train(flowgrpo(num_iterations=2, window=5, **options), ClosedFormEnv(reward=brightness), 2)
    assert history[0]["ratio"] == pytest.approx(1, abs=1e-6)
    assert history[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert abs(history[1]["ratio"] - 1) > 1e-6


def test_a_group_may_have_one_initial_latent() -> None:
    for same in (False, True):
        x = flowgrpo(window=5, same_latent=same).collect(ClosedFormEnv(reward=brightness)).tensors["x"][:, 0]
        groups = x.view(2, 6, 2)
        assert (groups == groups[:, :1]).all() == same
        assert not torch.equal(groups[0, 0], groups[1, 0])


def test_a_sliding_window_visits_every_trained_step_and_begins_anew() -> None:
    env, method = ClosedFormEnv(reward=brightness), flowgrpo(window=2, window_order="sliding", window_every=2)
    starts = [method.collect(env).tensors["step"][:, 0].tolist() for _ in range(10)]
    assert starts == [[place] * 12 for place in (0, 0, 1, 1, 2, 2, 3, 3, 0, 0)]


def test_the_normalised_update_is_the_formula() -> None:
    """max(-A rho, -A clip(rho))/|d| with rho = exp((dlogp + b) std), sample by sample, off the sampling policy."""
    method = flowgrpo(ratio_normalisation=True, guidance=1.0, beta=0.0, epsilon=0.002, window=1)
    env, twin = ClosedFormEnv(reward=brightness), ClosedFormEnv(reward=brightness)
    for each in (env, twin):
        each.rollouts = method.collect(each)
        with torch.no_grad():
            each.model.field.means.add_(0.05)
    assert twin.rollouts is not None
    t, sigmas = twin.rollouts.tensors, twin.model.sigmas(6)
    total = torch.zeros(())
    clipped = 0
    for row in range(12):
        s, s_next = sigmas[t["step"][row, 0]], sigmas[t["step"][row, 0] + 1]
        x, x_next, old = (t[name][row, 0] for name in ("x", "x_next", "mean"))
        v = twin.model.field(x[None], s[None], twin.rollouts.cond.label[row : row + 1])[0]  # type: ignore[attr-defined]
        mean, std = flow.sde_mean_std(x[None], v[None], s[None], s_next[None], 0.7, sigmas[1])
        rho = math.e ** (((x_next - old) * (mean[0] - old)).mean() / std.item())
        a = t["advantage"][row]
        clipped += int(abs(rho.item() - 1) > 0.002)
        total = total + torch.maximum(-a * rho, -a * rho.clamp(0.998, 1.002)) / (s - s_next)
    assert 0 < clipped < 12
    (total / 12).backward()
    twin.optimizer.step()
    metrics = method.step(env)
    assert metrics["clip_fraction"] == pytest.approx(clipped / 12)
    assert metrics["policy"] == pytest.approx(total.item() / 12, rel=1e-4)
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-5)


def test_noise_beyond_one_is_refused_for_cps() -> None:
    with pytest.raises(ConfigError, match="at most 1 with noise cps"):
        flowgrpo(noise="cps", noise_level=1.5)


def test_cells_from_before_these_settings_still_compare() -> None:
    """By default every later setting is what everything had before it."""
    before = values_before(FlowGRPO.Config)
    later = {"noise", "window_order", "window_every", "same_latent", "ratio_normalisation"}
    assert before.keys() == {*later, "detach_unconditional"}
    assert all(before[name] == getattr(FlowGRPO.Config(), name) for name in later)
