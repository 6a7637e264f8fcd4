"""The closed-form world against integrals, and SOAR's fixed point against one worked out without it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import ndtri

from bench.datasets import mixture as closed_form
from bench.datasets.dataset import Dataset
from bench.datasets.mixture import DEVIATION, MEANS, SHIFT, TEXTS, WEIGHTS, ClosedFormPolicy, MixtureField, Moments
from bench.preflight.conformance.closed_form_check import closed_form_stage
from methods.sft import SFT
from methods.soar import SOAR


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9])
def test_velocity_is_the_conditional_mean(sigma: float) -> None:
    """E[z1 - z0 | x] by a sum over a fine grid of z0, where z1 = (x - (1 - sigma) z0) / sigma."""
    axis = torch.arange(-5, 5, 0.02, dtype=torch.float64)
    z0 = torch.cartesian_prod(axis, axis)
    density = torch.zeros(len(z0), dtype=torch.float64)
    for weight, mean in zip(WEIGHTS[0], MEANS, strict=True):
        density += weight * torch.exp(-((z0 - mean) ** 2).sum(1) / (2 * DEVIATION**2))
    policy = ClosedFormPolicy.exact()
    for x in torch.tensor([[0.3, -0.4], [-1.5, 0.2], [1.0, 1.0]]):
        z1 = (x - (1 - sigma) * z0) / sigma
        weight = density * torch.exp(-(z1**2).sum(1) / 2)
        expected = ((z1 - z0) * weight[:, None]).sum(0) / weight.sum()
        v = policy.velocity(x[None], torch.tensor([sigma]), policy.encode(["left"]))[0].detach()
        torch.testing.assert_close(v.double(), expected, rtol=1e-4, atol=1e-4)  # float32 against a grid of 0.02


def test_the_exact_policy_samples_the_law_of_its_data() -> None:
    moments = Moments.of(ClosedFormPolicy.exact().sample(1024))
    # four standard errors of a mass of .4 over 1,024 samples; the sampler's 40 steps shrink the deviation by some 4 %
    assert (moments.mass - WEIGHTS).abs().max() < 0.06
    assert (moments.mean - MEANS).norm(dim=1).max() < 0.1
    assert (moments.deviation / DEVIATION - 1).abs().max() < 0.08
    assert moments.off_support < 0.005


def test_data_has_the_law_of_every_prompt() -> None:
    data = closed_form.dataset()
    for text, weights in zip(TEXTS, WEIGHTS, strict=True):
        rows = [i for i, prompt in enumerate(data.prompts) if prompt == text]
        share = (data.moments(np.array(rows))[0][:, None] == MEANS).all(2).double().mean(0)
        torch.testing.assert_close(share, weights.double(), rtol=0, atol=1e-7)


# SOAR on a single mode at the origin: everything is linear and Gaussian, and one deviation is all there is to learn.


def slope(sigma: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """a with v(x) = a x for data of deviation tau, and da/dtau."""
    above, below = sigma - (1 - sigma) * tau**2, (1 - sigma) ** 2 * tau**2 + sigma**2
    return above / below, (-2 * (1 - sigma) * tau * below - above * 2 * (1 - sigma) ** 2 * tau) / below**2


def gradient(p: np.ndarray, q: np.ndarray, target: tuple, sigma: np.ndarray, tau: float) -> np.ndarray:
    """Half the derivative by tau of E|a z - target|^2 at z = p z0 + q z1, target = target[0] z0 + target[1] z1."""
    a, da = slope(sigma, tau)
    return da * (p * (a * p - target[0]) * DEVIATION**2 + q * (a * q - target[1]))


def soar_gradient(tau: float, steps: int, points: int) -> float:
    """SOAR's expected gradient at guidance 1 by quadrature over sigma_0 and sigma', the rollout held fixed."""
    t0 = 1 / (1 + np.exp(-ndtri((np.arange(400) + 0.5) / 400)))
    t0 = t0[:, None]
    t1 = np.maximum(t0 - 1 / steps, np.minimum(t0, 1 / steps))
    s0, s1 = SHIFT * t0 / (1 + (SHIFT - 1) * t0), SHIFT * t1 / (1 + (SHIFT - 1) * t1)
    base = gradient(1 - s0, s0, (-1.0, 1.0), s0, tau)
    c = 1 + (s1 - s0) * slope(s0, tau)[0]  # zhat = c z
    s = s1 + (1 - s1) * (np.arange(200)[None] + 0.5) / 200
    alpha = (s - s1) / (1 - s1)
    p, q = (1 - alpha) * c * (1 - s0), (1 - alpha) * c * s0 + alpha
    aux = gradient(p, q, ((p - 1) / s, q / s), s, tau)
    return float(base.mean() + points * aux.mean())


def fixed_point(steps: int, points: int) -> float:
    return brentq(lambda tau: soar_gradient(tau, steps, points), 0.2, 0.8)


def trained_deviation(method: SFT, tau: float, updates: int) -> float:
    field = MixtureField(torch.zeros(1, 2), torch.tensor([tau]), torch.ones(len(TEXTS), 1))
    data = closed_form.dataset()
    std = data.moments(np.arange(len(data)))[1]
    data = Dataset.in_memory(torch.zeros_like(std), std, data.prompts, data.metadata)
    policy = ClosedFormPolicy(field)
    stage = closed_form_stage(method, policy, updates, data, learning_rate=0.004, ema_half_life=0.2)
    for _ in range(updates):
        stage.advance()
    with stage.averaged():
        return float(field.log_deviation.detach().exp())


def test_the_fixed_point_of_soar_nears_the_data_as_its_rollout_step_shrinks() -> None:
    biases = [DEVIATION - fixed_point(steps, points=2) for steps in (20, 40, 80, 160)]
    assert all(bias > 0 for bias in biases)
    for larger, smaller in itertools.pairwise(biases):
        assert 1.6 < larger / smaller < 2.4  # of first order in the step
    assert fixed_point(40, points=0) == pytest.approx(DEVIATION, abs=1e-6)  # SFT


@pytest.mark.slow
def test_soar_reaches_its_own_fixed_point_and_not_the_data() -> None:
    goal = fixed_point(10, points=2)
    reached = trained_deviation(SOAR(SOAR.Config(num_points=2, guidance=1.0, rollout_steps=10)), goal + 0.03, 150)
    assert DEVIATION - goal > 0.03  # so that the bound below tells the two apart
    assert reached == pytest.approx(goal, abs=0.012)
