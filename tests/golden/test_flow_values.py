"""bench.flow in float64 against values worked out by hand: beside each its arithmetic, above it equation and paper.

Rows are samples; where two stand in one test they differ in every argument, so that nothing can be taken from the wrong
row. What holds for all values is in tests/test_flow.py.
"""

from __future__ import annotations

import math

import torch

from bench import flow

LN_2 = 0.6931471805599453
HALF_LN_2_PI = 0.9189385332046727


def f64(*values: float, dimensions: int = 0) -> torch.Tensor:
    """Noise levels (B,), or samples (B, dimensions)."""
    flat = torch.tensor(values, dtype=torch.float64)
    return flat.view(-1, dimensions) if dimensions else flat


def close(actual: torch.Tensor, *expected: float) -> None:
    """To some fifty times the rounding of float64: the arguments themselves are rounded decimals."""
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual.flatten(), f64(*expected), rtol=0, atol=1e-14)


# The path and its schedule


def test_shifted_sigma() -> None:
    """sigma = shift u / (1 + (shift - 1) u). SD3, arXiv 2403.03206, eq. 23."""
    u, sigma = (0, 0.25, 0.5, 0.8, 1), (0, 0.75 / 1.5, 1.5 / 2, 2.4 / 2.6, 1)  # 3u / (1 + 2u)
    close(flow.shift_sigma(f64(*u), 3.0), *sigma)
    close(flow.unshift_sigma(f64(*sigma), 3.0), *u)  # sigma / (3 - 2 sigma), its inverse


def test_schedule_of_four_steps() -> None:
    """Equidistant times through eq. 23 of SD3, arXiv 2403.03206; float32 by its contract."""
    expected = [1, 2.25 / 2.5, 1.5 / 2, 0.75 / 1.5, 0]  # u = 1, .75, .5, .25, 0
    assert flow.sigma_schedule(4, 3.0).tolist() == torch.tensor(expected, dtype=torch.float32).tolist()


def test_interpolation_and_velocity_target() -> None:
    """z = (1 - sigma) z0 + sigma z1 and dz/dsigma = z1 - z0. Rectified flow, arXiv 2209.03003, eq. 1."""
    z0, z1 = f64(1, 2, -1, 0, dimensions=2), f64(5, -2, 3, 4, dimensions=2)
    z = flow.interpolate(z0, z1, f64(0.25, 0.5))
    close(z, 2, 1, 1, 2)  # .75*1 + .25*5, .75*2 - .25*2; .5*(-1) + .5*3, .5*0 + .5*4
    close(flow.velocity_target(z0, z1), 4, -4, 4, 4)  # 5 - 1, -2 - 2; 3 + 1, 4 - 0


def test_loss_of_a_sample() -> None:
    """Mean over dimensions of |v - (z1 - z0)|^2. Rectified flow, arXiv 2209.03003, eq. 1."""
    v, target = f64(3, -4, 4, 6, dimensions=2), f64(4, -4, 4, 4, dimensions=2)
    close(flow.per_sample_mse(v, target), 0.5, 2)  # (1 + 0)/2; (0 + 4)/2


def test_euler_step() -> None:
    """x + (sigma_next - sigma) v. Rectified flow, arXiv 2209.03003, eq. 2."""
    x, v, sigma = f64(2, -1, dimensions=1), f64(3, 2, dimensions=1), f64(0.5, 0.75)
    close(flow.euler_step(x, v, sigma, f64(0.25, 0.25)), 1.25, -2)  # 2 - .25*3; -1 - .5*2


def test_guided_velocity() -> None:
    """v_u + w (v_c - v_u). Classifier-free guidance, arXiv 2207.12598, eq. 6, there with w + 1 for w."""
    close(flow.guide(f64(1, 2), f64(3, 2), 4.5), 10, 2)  # 1 + 4.5*2, 2 + 4.5*0


# SOAR, arXiv 2604.12617


def test_noise_level_of_the_rollout() -> None:
    """t1 = t0 - 1/K in unshifted time. SOAR, arXiv 2604.12617, step 2, with the floor of `flow.rollout_sigma`."""
    s0 = f64(1.5 / 2, 0.09 / 1.06, 0.03 / 1.02)  # t0 = .5, .03, .01 at shift 3
    # t1 = .5 - .025; .03 - .025 lies below the last positive time .025, so t1 = .025; t0 = .01 lies there, and stays
    close(flow.rollout_sigma(s0, 3.0, 40), 1.425 / 1.95, 0.075 / 1.05, 0.03 / 1.02)


def test_renoising() -> None:
    """z' = (1 - a) zhat + a z1, a = (s' - s1)/(1 - s1). SOAR, arXiv 2604.12617, step 3."""
    zhat, z1 = f64(-0.35, 2, dimensions=1), f64(-1, -2, dimensions=1)
    z_prime = flow.renoise(zhat, z1, f64(0.7, 0.2), f64(0.85, 0.4))
    close(z_prime, -0.675, 1)  # a = .15/.3: .5*(-.35) - .5*1; a = .2/.8: .75*2 - .25*2


def test_correction_target() -> None:
    """v_corr = (z' - z0)/s'. SOAR, arXiv 2604.12617, step 4."""
    z_prime, z0 = f64(-0.675, 1, dimensions=1), f64(1, 0.5, dimensions=1)
    close(flow.correction_target(z_prime, z0, f64(0.85, 0.4)), -67 / 34, 1.25)  # -1.675/.85; .5/.4


def test_correction_after_a_rollout() -> None:
    """SOAR, arXiv 2604.12617, steps 1 to 4 in a row: a velocity of -3 where -2 would have been right."""
    z0, z1, s0, s1, s_prime = f64(1, dimensions=1), f64(-1, dimensions=1), f64(0.75), f64(0.7), f64(0.85)
    z = flow.interpolate(z0, z1, s0)
    close(z, -0.5)  # .25*1 - .75*1
    zhat = flow.euler_step(z, f64(-3, dimensions=1), s0, s1)
    close(zhat, -0.35)  # -.5 + (-.05)*(-3); the straight path is at -.4
    z_prime = flow.renoise(zhat, z1, s1, s_prime)
    close(flow.correction_target(z_prime, z0, s_prime), -67 / 34)  # (-.675 - 1)/.85, which is -2 + 1/34


# Flow-GRPO, arXiv 2505.05470


def test_mean_and_deviation_of_an_sde_step() -> None:
    """x + [v + s^2/(2 sigma) (x + (1 - sigma) v)] d, s sqrt(|d|), s = a sqrt(sigma/(1 - sigma)).

    Flow-GRPO, arXiv 2505.05470, eq. 9 and the text below it.
    """
    x, v = f64(2, -1, dimensions=1), f64(1, 2, dimensions=1)
    mean, std = flow.sde_mean_std(x, v, f64(0.5, 0.8), f64(0.25, 0.6), 0.7, 0.9)
    # s^2 = .49*.5/.5 = .49, drift = 1 + .49/1 * (2 + .5*1) = 2.225, mean = 2 - .25*2.225
    # s^2 = .49*.8/.2 = 1.96, drift = 2 + 1.96/1.6 * (-1 + .2*2) = 1.265, mean = -1 - .2*1.265
    close(mean, 1.44375, -1.253)
    close(std, 0.35, math.sqrt(0.392))  # sqrt(.49*.25), sqrt(1.96*.2)


def test_an_sde_step_from_pure_noise() -> None:
    """At sigma = 1 the denominator of s has the schedule's second level. Flow-GRPO, arXiv 2505.05470, eq. 9."""
    mean, std = flow.sde_mean_std(f64(2, dimensions=1), f64(1, dimensions=1), f64(1), f64(0.9), 0.7, 0.9)
    close(mean, 1.41)  # s^2 = .49*1/.1 = 4.9, drift = 1 + 4.9/2 * (2 + 0*1) = 5.9, mean = 2 - .1*5.9
    close(std, 0.7)  # sqrt(4.9*.1)


def test_log_probability() -> None:
    """-(x' - mean)^2/(2 std^2) - ln std - ln(2 pi)/2, mean over dimensions. Flow-GRPO, arXiv 2505.05470, section 3."""
    x_next, mean, std = f64(2, 1, 0.5, -1, dimensions=2), f64(1, 1, 0, 0, dimensions=2), f64(0.5, 2, dimensions=1)
    # (-1/.5 + 0)/2 = -1 and -ln .5; (-.25/8 - 1/8)/2 = -5/64 and -ln 2
    close(flow.log_prob(x_next, mean, std), -1 + LN_2 - HALF_LN_2_PI, -5 / 64 - LN_2 - HALF_LN_2_PI)


def test_kl_divergence_of_one_step() -> None:
    """(mean - mean_ref)^2/(2 std^2), mean over dimensions. Flow-GRPO, arXiv 2505.05470, section 3."""
    mean, mean_ref = f64(1, 0, 1, 3, dimensions=2), f64(0.5, 0, 1, 1, dimensions=2)
    close(flow.gaussian_kl(mean, mean_ref, f64(0.5, 1, dimensions=1)), 0.25, 1)  # (.25/.5 + 0)/2; (0 + 4/2)/2


def test_group_advantage() -> None:
    """(r - group mean)/(group deviation + eps). Flow-GRPO, arXiv 2505.05470, eq. 4; `batch` as its reference code."""
    rewards = f64(1, 2, 3, 0, 0, 3, dimensions=3)
    first, second = math.sqrt(2 / 3) + 1e-4, math.sqrt(2) + 1e-4  # (1 + 0 + 1)/3; (1 + 1 + 4)/3 about the mean 1
    every = math.sqrt(9.5 / 6) + 1e-4  # (.25 + .25 + 2.25 + 2.25 + 2.25 + 2.25)/6 about the mean 1.5
    close(flow.group_advantages(rewards), -1 / first, 0, 1 / first, -1 / second, -1 / second, 2 / second)
    close(flow.group_advantages(rewards, scale="batch"), -1 / every, 0, 1 / every, -1 / every, -1 / every, 2 / every)
    close(flow.group_advantages(rewards, scale="none"), -1, 0, 1, -1, -1, 2)


def test_clipped_surrogate() -> None:
    """max(-A r, -A clip(r, 1 - eps, 1 + eps)). PPO, arXiv 1707.06347, eq. 7, as a loss."""
    log_ratio, advantage = f64(1.2, 1.2, 0.8, 0.8, 1.05).log(), f64(1, -1, 1, -1, 2)
    # clipped to 1.1; the worse one, 1.2; the worse one, .8; clipped to .9; inside
    close(flow.ppo_loss(log_ratio, advantage, 0.1), -1.1, 1.2, -0.8, 0.9, -2.1)
    close(flow.ppo_loss(log_ratio, advantage, math.inf), -1.2, 1.2, -0.8, 0.8, -2.1)


# Noise of other samplers, and GRPO-Guard


def test_dance_step_is_that_of_its_score() -> None:
    """std = eta sqrt|d|, mean = x + d v - (eta^2/2) d score. DanceGRPO, arXiv 2505.07818, as its code has it."""
    x, v = f64(2, 1, dimensions=1), f64(4, -2, dimensions=1)
    mean, std = flow.noisy_step("dance", x, v, f64(0.5, 1), f64(0.25, 0.75), 0.4, 0.9)
    # x0 = 2 - .5*4 = 0, score = -2/.25 = -8, mean = 2 - .25*4 - .08*.25*8; x0 = 3, score = -1, mean = 1 + .5 - .08*.25
    close(mean, 0.84, 1.48)
    close(std, 0.2, 0.2)  # .4*sqrt(.25)


def test_cps_step() -> None:
    """std = sigma_next sin(a pi/2), mean = (1 - sigma_next) x0 + sigma_next cos(a pi/2) x1. arXiv 2509.05952."""
    x, v = f64(2, 1, dimensions=1), f64(4, -2, dimensions=1)
    mean, std = flow.noisy_step("cps", x, v, f64(0.5, 1), f64(0.25, 0.8), 1 / 3, 0.9)
    close(std, 0.125, 0.4)  # sin 30 degrees is .5
    root = math.sqrt(0.75)
    close(mean, 0.25 * root * 4, 0.2 * 3 + 0.8 * root * 1)  # x0 = 0, x1 = 2 + .5*4; x0 = 1 + 2, x1 = 1


def test_normalised_log_ratio() -> None:
    """(log_ratio + |mean - mean_old|^2/(2 std^2)) std = (x_next - mean_old)(mean - mean_old)/std, in the mean over D.

    GRPO-Guard, arXiv 2510.22319.
    """
    mean, old, x_next = f64(1, 2, 3, 0, dimensions=2), f64(0, 2, 1, 1, dimensions=2), f64(4, 7, 2, 3, dimensions=2)
    std = f64(0.5, 2).view(2, 1)
    log_ratio = flow.log_prob(x_next, mean, std) - flow.log_prob(x_next, old, std)
    # (4*1 + 5*0)/2/.5, (1*2 + 2*(-1))/2/2
    close(flow.normalised_log_ratio(log_ratio, mean, old, std), 4, 0)


def test_turned_displacement() -> None:
    """|d| g/|g|: the length of one, the direction of the other."""
    close(flow.turned(f64(3, 4, 0, 2, dimensions=2), f64(0, 2, -6, 8, dimensions=2)), 0, 5, -1.2, 1.6)


# Reinforcement on the forward process


def test_nft_loss() -> None:
    """(q |x+ - z0|^2/w+ + (1 - q) |x- - z0|^2/w-)/b, w = mean |x - z0|. DiffusionNFT, arXiv 2509.16117."""
    v, old = f64(3, 1, 2, 2, dimensions=2), f64(1, 1, 0, 1, dimensions=2)
    target, sigma, q = f64(0, 2, 1, 3, dimensions=2), f64(0.5, 0.25), f64(0.75, 0)
    # b = 1/2: v+ = 2, 1; 1, 1.5 and v- = 0, 1; -1, .5
    # x+ - z0 = .5*(2, -1) so that |.|^2 = .625 and w = .75; x- - z0 = .5*(0, -1): .125 and .25
    # row 2 counts v- alone: .25*(-2, -2.5): (.25 + .390625)/2 over (.5 + .625)/2
    close(
        flow.nft_loss(v, old, target, sigma, q, 0.5),
        2 * (0.75 * 0.625 / 0.75 + 0.25 * 0.125 / 0.25), 2 * 0.3203125 / 0.5625,
    )  # fmt: skip


def test_matching_log_prob() -> None:
    """-(sigma/p)((e + 1e-10)^p - 1e-10^p). Advantage Weighted Matching, arXiv 2509.25050, `ghuber`."""
    e, sigma = f64(16, 0), f64(0.5, 0.7)
    tiny = 1e-10**0.25
    close(flow.matching_log_prob(e, sigma, 0.25), -2 * ((16 + 1e-10) ** 0.25 - tiny), 0)  # about -2*(2 - .003)
    close(flow.matching_log_prob(e, sigma, 1.0), -8, 0)


def test_group_preference_weight() -> None:
    """S(b mean_i A_i (e_i - e_i,ref)). DGPO, arXiv 2510.08425; of a pair that of Diffusion-DPO, arXiv 2311.12908."""
    a, gain = f64(1, -1, 0.5, -0.5, dimensions=2), f64(-0.5, 0.25, 0.2, 0.2, dimensions=2)
    # S(4 * (-.5 - .25)/2) = 1/(1 + e^1.5), and S(0)
    close(flow.group_preference_weight(a, gain, 4.0), 1 / (1 + math.exp(1.5)), 0.5)


def test_preference_loss() -> None:
    """-log S(-b/2 (gain_w - gain_l)). Diffusion-DPO, arXiv 2311.12908; Flow-DPO, arXiv 2501.13918."""
    chosen, rejected = f64(0.5, -0.5, 0.25), f64(0.5, 0.5, -0.75)
    loss = flow.preference_loss(chosen, rejected, 2 * math.log(3))  # b/2 = ln 3
    close(loss, LN_2, math.log(4 / 3), math.log(4))  # log(1 + 3^0), log(1 + 3^-1), log(1 + 3^1)
