"""The maths of rectified flow against its invariants; its golden values are in tests/golden/."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import flow

F64 = torch.float64
levels = st.floats(0.001, 0.999)
shifts = st.floats(0.5, 8.0)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


# Schedules


@given(st.integers(1, 200), shifts)
def test_schedule_falls_from_exactly_one_to_exactly_zero(steps: int, shift: float) -> None:
    sigmas = flow.sigma_schedule(steps, shift)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize(("steps", "shift"), [(0, 3.0), (-1, 3.0), (5, 0.0)])
def test_schedule_refuses(steps: int, shift: float) -> None:
    with pytest.raises(ValueError, match="expected steps >= 1"):
        flow.sigma_schedule(steps, shift)


@given(st.floats(0, 1), shifts)
def test_unshift_is_the_inverse(u: float, shift: float) -> None:
    torch.testing.assert_close(flow.unshift_sigma(flow.shift_sigma(t(u), shift), shift), t(u), rtol=1e-12, atol=1e-12)


# The straight path


@given(levels)
def test_path_ends_and_derivative(sigma: float) -> None:
    z0, z1 = torch.randn(2, 3, 4, 4, dtype=F64), torch.randn(2, 3, 4, 4, dtype=F64)
    assert torch.equal(flow.interpolate(z0, z1, t(0, 0)), z0)
    assert torch.equal(flow.interpolate(z0, z1, t(1, 1)), z1)
    v, s = flow.velocity_target(z0, z1), t(sigma, sigma)
    z = flow.interpolate(z0, z1, s)
    torch.testing.assert_close(flow.euler_step(z, v, s, t(0, 1)), torch.stack([z0[0], z1[1]]))


def test_a_scalar_level_serves_the_whole_batch() -> None:
    x, v = torch.randn(3, 2, 2, dtype=F64), torch.randn(3, 2, 2, dtype=F64)
    scalar = flow.sde_mean_std(x, v, t(0.5)[0], t(0.25)[0], 0.7, 0.9)
    batch = flow.sde_mean_std(x, v, t(0.5, 0.5, 0.5), t(0.25, 0.25, 0.25), 0.7, 0.9)
    assert torch.equal(scalar[0], batch[0])
    assert torch.equal(scalar[1].expand(3, 1, 1), batch[1])


# SOAR


@given(levels, st.floats(0, 1), shifts, st.integers(2, 60), st.floats(-5, 5))
def test_correction_is_a_bounded_share_of_the_velocity_error(
    s: float, u: float, shift: float, k: int, e: float
) -> None:
    """v_corr = v* - c (v_cfg - v*) with c = (1 - s')/(1 - s1) (s0 - s1)/s', for any sigma0, sigma'."""
    z0, z1, s0 = torch.randn(1, 4, dtype=F64), torch.randn(1, 4, dtype=F64), t(s)
    s1 = flow.rollout_sigma(s0, shift, k)
    s_prime = s1 + (1 - s1) * u
    v_star = flow.velocity_target(z0, z1)
    zhat = flow.euler_step(flow.interpolate(z0, z1, s0), v_star + e, s0, s1)
    v_corr = flow.correction_target(flow.renoise(zhat, z1, s1, s_prime), z0, s_prime)
    c = (1 - s_prime) / (1 - s1) * (s0 - s1) / s_prime
    assert 0 < s1 <= s0
    assert 0 <= c <= max(1, 1 / shift) + 1e-9
    torch.testing.assert_close(v_corr, v_star - c * e, rtol=1e-9, atol=1e-9)


def test_targets_stay_accurate_in_float32() -> None:
    """At sigma0 = .003 the division by sigma' must not blow up rounding: 1e-3 of targets of size 1."""
    torch.manual_seed(0)
    z0, z1, s0 = torch.randn(64, 16), torch.randn(64, 16), torch.full((64,), 0.003)
    s1 = flow.rollout_sigma(s0, 3.0, 40)
    zhat = flow.euler_step(flow.interpolate(z0, z1, s0), z1 - z0, s0, s1)
    target = flow.correction_target(flow.renoise(zhat, z1, s1, s1), z0, s1)
    assert (target - (z1 - z0)).abs().max() < 1e-3


# Flow-GRPO


def test_sde_without_noise_is_the_ode() -> None:
    x, v, s = torch.randn(5, 3, dtype=F64), torch.randn(5, 3, dtype=F64), torch.full((5,), 0.6, dtype=F64)
    mean, std = flow.sde_mean_std(x, v, s, s - 0.1, 0.0, 0.9)
    assert torch.equal(mean, flow.euler_step(x, v, s, s - 0.1))
    assert (std == 0).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.floats(0.1, 1.5), st.floats(-2, 2), st.floats(0.3, 2.0))
def test_sde_keeps_the_marginals_of_the_ode(noise_level: float, m: float, tau: float) -> None:
    """Data N(m, tau^2) and its exact velocity: the moments carried along by the SDE are those of (1-s) z0 + s z1.

    A step is affine in x, so moments propagate exactly; what is left is the Euler error, of first order in the step.
    """
    sigmas = torch.linspace(0.9, 0.2, 1001, dtype=F64)
    probe = t(0, 1)[:, None]
    mu, var = 0.1 * m, (0.1 * tau) ** 2 + 0.81
    for s, s_next in pairwise(sigmas):
        v = (s - (1 - s) * tau**2) * (probe - (1 - s) * m) / ((1 - s) ** 2 * tau**2 + s**2) - m
        mean, std = flow.sde_mean_std(probe, v, s, s_next, noise_level, 0.99)
        offset, slope = float(mean[0]), float(mean[1] - mean[0])
        mu, var = slope * mu + offset, slope**2 * var + float(std) ** 2
    assert abs(mu - 0.8 * m) < 0.01
    assert abs(var - (0.64 * tau**2 + 0.04)) < 0.01 * max(1, tau**2)


def test_kl_matches_torch_distributions() -> None:
    mean, ref, std = torch.randn(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64), torch.rand(3, 1, dtype=F64) + 0.1
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(ref, std)
    )
    torch.testing.assert_close(flow.gaussian_kl(mean, ref, std), exact.mean(1))


def test_advantages_refuse_an_unknown_scale() -> None:
    with pytest.raises(ValueError, match="expected scale"):
        flow.group_advantages(t(1, 2, 3)[None], scale="std")  # type: ignore[arg-type]


@given(st.floats(-1, 1, width=32), st.integers(2, 40))
def test_equal_rewards_have_advantage_exactly_zero(reward: float, size: int) -> None:
    assert (flow.group_advantages(torch.full((2, size), reward)) == 0).all()


def test_clipping_stops_the_gradient_only_where_the_ratio_went_too_far() -> None:
    log_ratio = t(1.2, 1.2, 0.8, 0.8).log().requires_grad_()
    flow.ppo_loss(log_ratio, t(1, -1, 1, -1), 0.1).sum().backward()
    assert log_ratio.grad is not None
    torch.testing.assert_close(log_ratio.grad, t(0, 1.2, -0.8, 0), rtol=0, atol=1e-12)


def test_float32_stays_float32() -> None:
    x, s = torch.randn(2, 3), torch.tensor([0.5, 0.6])
    mean, std = flow.sde_mean_std(x, x, s, s - 0.1, 0.7, flow.sigma_schedule(10, 3.0)[1])
    for result in (mean, std, flow.log_prob(x, mean, std), flow.renoise(x, x, s, s + 0.1)):
        assert result.dtype == torch.float32


def test_the_gradient_of_a_preference_is_the_weight_of_its_group() -> None:
    """So online and offline Flow-DPO are one loss: b/2 w A by each error, with A = (1, -1) and w that of the pair."""
    chosen, rejected = (torch.randn(5, dtype=torch.float64).requires_grad_() for _ in range(2))
    flow.preference_loss(chosen, rejected, 3.0).sum().backward()
    pair = torch.stack([chosen, rejected], 1).detach()
    advantage = torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand_as(pair)
    weight = flow.group_preference_weight(advantage, pair, 3.0)
    assert chosen.grad is not None and rejected.grad is not None
    torch.testing.assert_close(torch.stack([chosen.grad, rejected.grad], 1), 1.5 * weight * advantage)
