"""The pure mathematics of rectified flow: tensors in, tensors out, no state and no random numbers.

Legend: z0 clean latent (B, *S), z1 standard normal noise (B, *S), sigma (B,) in [0, 1] with 0 = data and 1 = noise,
z = (1 - sigma) z0 + sigma z1, velocity v = dz/dsigma with target z1 - z0, w guidance scale, d = sigma_next - sigma < 0.

A noise level is a tensor (B,), one per sample, or a scalar tensor (). Every function computes in the precision of its
arguments: float32 in the harness, float64 in the tests.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
Noise = Literal["sde", "dance", "cps"]


def align(sigma: Tensor, x: Tensor) -> Tensor:
    """Noise levels (B,) or () as (B, 1, ..., 1) or (), to multiply samples x (B, *S)."""
    return sigma.reshape(-1, *[1] * (x.dim() - 1)) if sigma.dim() else sigma


def shift_sigma(u: Tensor, shift: float) -> Tensor:
    """Noise level of the unshifted time u in [0, 1]: shift u / (1 + (shift - 1) u), increasing, 0 -> 0 and 1 -> 1.

    Source: SD3, arXiv 2403.03206, eq. 23.
    """
    return shift * u / (1 + (shift - 1) * u)


def unshift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """The unshifted time in [0, 1] of a noise level: the inverse of `shift_sigma`."""
    return sigma / (shift - (shift - 1) * sigma)


def sigma_schedule(steps: int, shift: float) -> Tensor:
    """Sampling noise levels (steps + 1,) float32, strictly decreasing from exactly 1 to exactly 0.

    Raises:
        ValueError: fewer than one step, or a shift that is not positive.

    Source: SD3, arXiv 2403.03206, eq. 23, at equidistant times. Deviation: diffusers shifts its smallest level twice
    (0.009 for ten steps at shift 3) and appends 0; here every level is shifted once.
    """
    if steps < 1 or shift <= 0:
        raise ValueError(f"sigma_schedule: expected steps >= 1 and shift > 0, got steps={steps}, shift={shift}")
    sigmas = shift_sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).float()
    sigmas[0], sigmas[-1] = 1.0, 0.0
    return sigmas


def interpolate(z0: Tensor, z1: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) z0 + sigma z1, the state (B, *S) on the straight path. Source: arXiv 2209.03003, eq. 1."""
    s = align(sigma, z0)
    return (1 - s) * z0 + s * z1


def velocity_target(z0: Tensor, z1: Tensor) -> Tensor:
    """z1 - z0 (B, *S), the derivative of the straight path by sigma. Source: arXiv 2209.03003, eq. 1."""
    return z1 - z0


def per_sample_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, mean over all dimensions but the first: (B, *S) -> (B,)."""
    return (prediction - target).square().flatten(1).mean(1)


def guide(v_u: Tensor, v_c: Tensor, w: float) -> Tensor:
    """Classifier-free guidance v_u + w (v_c - v_u) (B, *S). Source: arXiv 2207.12598, eq. 6 (there w + 1)."""
    return v_u + w * (v_c - v_u)


def euler_step(x: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x + (sigma_next - sigma) v (B, *S), one step of the probability-flow ODE. Source: arXiv 2209.03003, eq. 2."""
    return x + align(sigma_next - sigma, x) * v


# SOAR, arXiv 2604.12617 ----------------------------------------------------------------------------------------------


def rollout_sigma(sigma0: Tensor, shift: float, steps: int) -> Tensor:
    """Noise level (B,) one sampling step of 1/steps in unshifted time below sigma0 (B,) in (0, 1); never 0.

    t1 = max(t0 - 1/steps, min(t0, 1/steps)): the step does not cross the last positive time of the schedule, and a
    sample already below it stays where it is. Hence 0 < sigma1 <= sigma0.

    Source: SOAR, arXiv 2604.12617, step 2. Deviation: the paper has t1 = max(t0 - 1/steps, 0). There sigma1 may be 0,
    so that sigma' ~ U[sigma1, 1] comes arbitrarily close to 0 and the target, divided by sigma', has no bound.
    With this floor it differs from z1 - z0 by at most max(1, 1/shift) times the velocity's error.
    """
    t0 = unshift_sigma(sigma0, shift)
    t1 = torch.maximum(t0 - 1 / steps, t0.clamp(max=1 / steps))
    return torch.minimum(shift_sigma(t1, shift), sigma0)


def renoise(zhat: Tensor, z1: Tensor, sigma_hat: Tensor, sigma_prime: Tensor) -> Tensor:
    """z' = (1 - a) zhat + a z1 with a = (sigma' - sigma_hat)/(1 - sigma_hat): carry zhat on to the noise level sigma'.

    sigma_hat (B,) in [0, 1) is the level of zhat (B, *S), sigma_prime (B,) in [sigma_hat, 1].

    Source: SOAR, arXiv 2604.12617, step 3.
    """
    return interpolate(zhat, z1, (sigma_prime - sigma_hat) / (1 - sigma_hat))


def correction_target(z_prime: Tensor, z0: Tensor, sigma_prime: Tensor) -> Tensor:
    """(z' - z0)/sigma' (B, *S): the velocity that leads straight from z' at sigma' (B,) > 0 back to z0.

    Source: SOAR, arXiv 2604.12617, step 4. Where zhat was not displaced it equals z1 - z0. No bound is imposed here: it
    follows from sigma' >= sigma_hat > 0, see `rollout_sigma`.
    """
    return (z_prime - z0) / align(sigma_prime, z0)


def turned(displacement: Tensor, direction: Tensor) -> Tensor:
    """A displacement (B, *S) of the same length in another `direction` (B, *S), which is not 0."""
    length, other = (x.flatten(1).norm(dim=1) for x in (displacement, direction))
    return align(length / other, direction) * direction


# Flow-GRPO, arXiv 2505.05470 -----------------------------------------------------------------------------------------


def sde_mean_std(
    x: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float, sigma_max: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Mean (B, *S) and standard deviation (B, 1, ..., 1) of one SDE step with the marginals of the ODE.

    With s = noise_level sqrt(sigma / (1 - sigma)) and d = sigma_next - sigma < 0:
    mean = x + [v + s^2/(2 sigma) (x + (1 - sigma) v)] d and std = s sqrt(|d|). sigma is in (0, 1]. In the denominator
    of s it is at most `sigma_max`, the schedule's second level, so that s stays finite at sigma = 1.

    Source: Flow-GRPO, arXiv 2505.05470, eq. 9 and the text below it (there t for sigma).
    """
    return _sde_step(x, v, sigma, sigma_next, noise_level**2 * sigma / (1 - sigma.clamp(max=sigma_max)))


def _sde_step(x: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    """One SDE step with the marginals of the ODE; s2 is the square of its diffusion s."""
    d = sigma_next - sigma
    drift = v + align(s2 / (2 * sigma), x) * (x + align(1 - sigma, x) * v)
    return x + align(d, x) * drift, align((s2 * d.abs()).sqrt(), x)


def noisy_step(
    noise: Noise, x: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float, sigma_max: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Mean (B, *S) and standard deviation (B, 1, ..., 1) of one step that adds noise.

    `sde` is Flow-GRPO's, see `sde_mean_std`. `dance` is the same SDE with s = noise_level at every level. `cps`
    (coefficients-preserving sampling) leaves exactly the noise of sigma_next: with x0 = x - sigma v, x1 = x +
    (1 - sigma) v and std = sigma_next sin(noise_level pi/2), mean = (1 - sigma_next) x0 + sqrt(sigma_next^2 - std^2)
    x1; noise_level is in (0, 1].

    Source: DanceGRPO, arXiv 2505.07818, and CPS, arXiv 2509.05952, each as in its reference code; Flow-GRPO, arXiv
    2505.05470. DanceGRPO writes the drift as v - (s^2/2) score with score = -(x - (1 - sigma) x0)/sigma^2, which is
    that of `sde_mean_std`.
    """
    if noise == "sde":
        return sde_mean_std(x, v, sigma, sigma_next, noise_level, sigma_max)
    if noise == "dance":
        return _sde_step(x, v, sigma, sigma_next, torch.full_like(sigma, noise_level**2))
    if noise == "cps":
        added, kept = (trig(noise_level * math.pi / 2) for trig in (math.sin, math.cos))
        z0, z1 = x - align(sigma, x) * v, x + align(1 - sigma, x) * v
        return align(1 - sigma_next, x) * z0 + align(kept * sigma_next, x) * z1, align(added * sigma_next, x)
    raise ValueError(f"noisy_step: expected noise sde, dance or cps, got {noise!r}")


def log_prob(x_next: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Gaussian log-density (B,) of x_next (B, *S), MEAN over the D dimensions of a sample.

    Source: Flow-GRPO, arXiv 2505.05470, section 3, with the mean of the reference code where the density has a sum. So
    log-ratios scale as D^-1/2 and a clip range has to follow them.
    """
    element = -((x_next - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return element.flatten(1).mean(1)


def gaussian_kl(mean: Tensor, mean_ref: Tensor, std: Tensor) -> Tensor:
    """KL divergence (B,) of Gaussians that share std: |mean - mean_ref|^2/(2 std^2), MEAN over dimensions.

    With std = s sqrt(|d|) of `sde_mean_std` this is the paper's KL of one step.

    Source: Flow-GRPO, arXiv 2505.05470, section 3. Deviation from the reference code, which drops |d| and divides by
    2 s^2: a coefficient beta there corresponds to |d| beta here, about a tenth at ten steps.
    """
    return ((mean - mean_ref) ** 2 / (2 * std**2)).flatten(1).mean(1)


def normalised_log_ratio(log_ratio: Tensor, mean: Tensor, mean_old: Tensor, std: Tensor) -> Tensor:
    """The log-ratio (B,) of Gaussians that share std, freed of its negative mean and of the scale of the step.

    (log_ratio + |mean - mean_old|^2/(2 std^2)) std, with MEAN over dimensions: linear in mean - mean_old, so that clip
    ranges cut both sides of 1 alike and mean the same at every noise level.

    Source: GRPO-Guard, arXiv 2510.22319 (RatioNorm), as in its reference code, with the std of each sample where that
    takes the mean over samples.
    """
    return (log_ratio + gaussian_kl(mean, mean_old, std)) * std.flatten()


def group_advantages(rewards: Tensor, eps: float = 1e-4, scale: Scale = "group") -> Tensor:
    """Advantages (groups, size) of rewards (groups, size): reward less its group's mean, over a standard deviation.

    scale: `group` divides by the group's deviation + eps (the paper), `batch` by that of all rewards + eps (the
    reference code), `none` not at all. Deviations are of the population (divided by n): a group of one has advantage 0.
    A reward that is NaN is none: neither mean nor deviation knows it, and its advantage is 0.

    Source: Flow-GRPO, arXiv 2505.05470, eq. 4; eps as in trl and the reference code.
    """
    judged = ~rewards.isnan()
    if not judged.all():
        out = torch.zeros_like(rewards)
        deviation = rewards[judged].std(correction=0) if judged.any() else 0.0
        for row, own, at in zip(rewards, judged, out, strict=True):
            if own.any():
                at[own] = group_advantages(row[own][None], eps, "none" if scale == "batch" else scale)[0]
        return out / (deviation + eps) if scale == "batch" else out
    centred = rewards - rewards[:, :1]  # equal rewards must give exactly 0, which a rounded mean would not
    centred = centred - centred.mean(1, keepdim=True)
    if scale == "group":
        return centred / (centred.std(1, keepdim=True, correction=0) + eps)
    if scale == "batch":
        return centred / (rewards.std(correction=0) + eps)
    if scale == "none":
        return centred
    raise ValueError(f"group_advantages: expected scale group, batch or none, got {scale!r}")


def varied_groups(rewards: Tensor) -> Tensor:
    """Which groups (groups,) of rewards (groups, size) have two that differ; NaN is no reward."""
    return rewards.nan_to_num(nan=-math.inf).amax(1) > rewards.nan_to_num(nan=math.inf).amin(1)


def reward_metrics(rewards: Tensor) -> dict[str, float]:
    """What to log of rewards (groups, size): mean, deviations, and the share of groups that teach nothing.

    Where some are NaN, the others count, and `reward_abstained` is their number.
    """
    judged = ~rewards.isnan()
    found = {"frac_reward_zero_std": float((~varied_groups(rewards)).float().mean())}
    if judged.all():
        of_groups = rewards.std(1, correction=0)
    else:
        found["reward_abstained"] = float((~judged).sum())
        if not judged.any():
            return found
        pairs = zip(rewards, judged, strict=True)
        of_groups = torch.stack([row[own].std(correction=0) for row, own in pairs if own.any()])
    there = rewards if judged.all() else rewards[judged]
    return {
        "reward_mean": float(there.mean()),
        "reward_std": float(there.std(correction=0)),
        "reward_group_std": float(of_groups.mean()),
        **found,
    }


def ppo_loss(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Clipped surrogate (B,): max(-A r, -A clip(r, 1 - clip_range, 1 + clip_range)) with r = exp(log_ratio) (B,).

    Source: PPO, arXiv 1707.06347, eq. 7, as the loss to minimise. An infinite clip range clips nothing.
    """
    r = log_ratio.exp()
    return torch.maximum(-advantage * r, -advantage * r.clamp(1 - clip_range, 1 + clip_range))


# Reinforcement on the forward process: losses of own samples z0, noised to z at sigma -----------------------------


def nft_loss(v: Tensor, v_old: Tensor, target: Tensor, sigma: Tensor, optimality: Tensor, beta: float) -> Tensor:
    """(q |x+ - z0|^2/w+ + (1 - q) |x- - z0|^2/w-)/beta (B,) with q = `optimality` (B,) in [0, 1], |.|^2 a mean.

    v+ = (1 - beta) v_old + beta v and v- = (1 + beta) v_old - beta v are the implicit positive and negative policies,
    x+- = z - sigma v+- their clean latents, and w+- = sg mean |x+- - z0|, at least 1e-5, so that no noise level rules.

    Source: DiffusionNFT, arXiv 2509.16117, as in its reference code, which multiplies by the largest advantage too.
    """

    def matched(prediction: Tensor) -> Tensor:
        error = align(sigma, target) * (prediction - target)  # of the clean latent, but for its sign
        weight = error.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        return error.square().flatten(1).mean(1) / weight

    positive, negative = (1 - beta) * v_old + beta * v, (1 + beta) * v_old - beta * v
    return (optimality * matched(positive) + (1 - optimality) * matched(negative)) / beta


def matching_log_prob(error: Tensor, sigma: Tensor, power: float) -> Tensor:
    """-(sigma/p)((e + 1e-10)^p - 1e-10^p) (B,): a log-likelihood by the flow-matching error e (B,); p is `power`.

    Source: Advantage Weighted Matching, arXiv 2509.25050, weighting `ghuber` of its reference code; p = 1 is -sigma e.
    """
    log_p: Tensor = -sigma / power * ((error + 1e-10) ** power - 1e-10**power)
    return log_p


def group_preference_weight(advantage: Tensor, gain: Tensor, beta: float) -> Tensor:
    """S(beta mean_i A_i (e_i - e_i,ref)) (groups, 1), S the logistic function; `gain` is e - e_ref (groups, K).

    How far the group's order is from learnt: 1/2 at the reference. Of a pair with A = (1, -1) it is the weight of
    Diffusion-DPO's gradient, S(beta/2 [(e_w - e_w,ref) - (e_l - e_l,ref)]).

    Source: DGPO, arXiv 2510.08425, as in its reference code; Flow-DPO, arXiv 2501.13918; Diffusion-DPO, arXiv
    2311.12908.
    """
    return torch.sigmoid(beta * (advantage * gain).mean(1, keepdim=True))


def preference_loss(gain_chosen: Tensor, gain_rejected: Tensor, beta: float) -> Tensor:
    """-log S(-beta/2 (gain_chosen - gain_rejected)) (B,), S the logistic function; each gain (B,) is e - e_ref.

    Its derivative by e_chosen is beta/2 times the `group_preference_weight` of the pair, by e_rejected minus that.

    Source: Diffusion-DPO, arXiv 2311.12908; for flow models Flow-DPO, arXiv 2501.13918.
    """
    return -torch.nn.functional.logsigmoid(-beta / 2 * (gain_chosen - gain_rejected))
