"""SFT, SOAR and Flow-GRPO on the closed-form world, against their formulas written out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench import flow
from bench.api import ConfigError, PluginError, Rollouts
from bench.datasets.mixture import DEVIATION, MEANS, SHIFT, TEXTS
from methods._groups import members
from methods.flowgrpo import FlowGRPO
from methods.sft import SFT
from methods.soar import SOAR
from tests.support.closed_form import ClosedFormEnv, train

SMALL = FlowGRPO.Config(num_groups=2, num_generations=6, sampling_steps=6, updates=1)


def sft() -> SFT:
    return SFT(SFT.Config())


def soar(**options: object) -> SOAR:
    return SOAR(SOAR.Config(**options))  # type: ignore[arg-type]


def flowgrpo(**options: object) -> FlowGRPO:
    return FlowGRPO(dataclasses.replace(SMALL, **options))  # type: ignore[arg-type]


def brightness(images: np.ndarray) -> np.ndarray:
    """Grey level of the first coordinate: rises with x."""
    return images[:, 0, 0, 0] / 255


# Supervised fine-tuning


def test_sft_loss_and_update_are_the_formula() -> None:
    env, twin = ClosedFormEnv(batch_size=8), ClosedFormEnv(batch_size=8)
    index = np.arange(8)
    label = torch.from_numpy(index % 4)
    z0 = MEANS[label] + DEVIATION * twin.draw.noise(index, "data")
    z1, sigma = twin.draw.noise(index), twin.draw.sigma(index)[:, None]
    v = twin.model.field((1 - sigma) * z0 + sigma * z1, sigma[:, 0], label)
    loss = ((v - (z1 - z0)) ** 2).mean()  # every sample has as many dimensions, so one mean is the mean of means
    loss.backward()
    twin.optimizer.step()

    metrics = sft().step(env)
    assert metrics["base"] == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_sft_finds_the_means_and_the_deviation() -> None:
    env = ClosedFormEnv(optimizer=torch.optim.Adam, lr=0.05, batch_size=64, micro_batch=64, deviation=1.0)
    assert (env.model.field.means - MEANS).abs().max() == 1
    train(sft(), env, 120)
    # batches of 64 at this learning rate leave each mode's mean and deviation wandering by about .05
    assert (env.model.field.means - MEANS).abs().max() < 0.15
    assert (env.model.field.log_deviation.exp() - DEVIATION).abs().max() < 0.15


# SOAR


def soar_loss_by_hand(env: ClosedFormEnv, size: int, n: int, weight: float, w: float, k: int) -> torch.Tensor:
    """FACTS of arXiv 2604.12617, sample by sample: (sum base + lambda sum aux) / (B + lambda N B)."""
    total = torch.zeros(())
    for i in range(size):
        index, label = np.array([i]), torch.tensor([i % 4])
        z0 = MEANS[label] + DEVIATION * env.draw.noise(index, "data")
        z1, s0 = env.draw.noise(index), env.draw.sigma(index)
        z = (1 - s0) * z0 + s0 * z1
        v_c, v_u = env.model.field(z, s0, label), env.model.field(z, s0, torch.tensor([-1]))
        total = total + ((v_c - (z1 - z0)) ** 2).mean()
        t0 = s0 / (SHIFT - (SHIFT - 1) * s0)
        assert t0 > 2 / k  # none of these samples reaches the floor
        s1 = SHIFT * (t0 - 1 / k) / (1 + (SHIFT - 1) * (t0 - 1 / k))
        zhat = (z + (s1 - s0) * (v_u + w * (v_c - v_u))).detach()
        for point in range(n):
            s = s1 + (1 - s1) * env.draw.uniform(index, f"sigma.path0.point{point}")
            a = (s - s1) / (1 - s1)
            z_prime = (1 - a) * zhat + a * z1
            total = total + weight * ((env.model.field(z_prime, s, label) - (z_prime - z0) / s) ** 2).mean()
    return total / (size * (1 + weight * n))


def test_soar_update_is_the_formula() -> None:
    env, twin = ClosedFormEnv(batch_size=8, micro_batch=3), ClosedFormEnv(batch_size=8)
    soar_loss_by_hand(twin, 8, n=3, weight=0.5, w=4.5, k=20).backward()
    twin.optimizer.step()
    before = env.weights
    soar(num_points=3, weight=0.5, rollout_steps=20).step(env)
    assert (env.weights - before).abs().max() > 1e-3
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-6)


def test_soar_needs_one_pass_beyond_its_losses() -> None:
    """The conditional pass of the rollout is the base loss's own; only the unconditional one is added."""
    env = ClosedFormEnv(batch_size=8)
    soar().step(env)
    assert env.model.passes == {"grad": 8 * 7, "no_grad": 8, "reference": 0}
    env = ClosedFormEnv(batch_size=8)
    soar(guidance=1.0).step(env)
    assert env.model.passes == {"grad": 8 * 7, "no_grad": 0, "reference": 0}


def test_soar_paths_and_fresh_noise_change_the_update() -> None:
    results = []
    for options in ({}, {"stochastic_paths": 1}, {"fresh_noise": True}):
        env = ClosedFormEnv(batch_size=8)
        soar(num_points=2, **options).step(env)
        results.append((env.weights, env.model.passes["grad"]))
    assert [passes for _, passes in results] == [8 * 3, 8 * 5, 8 * 3]
    assert not torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][0], results[2][0])


# Flow-GRPO


def test_the_replayed_ratio_is_one_before_the_first_update() -> None:
    env = ClosedFormEnv(reward=brightness, micro_batch=5)
    metrics = train(flowgrpo(window=5), env, 1)[0]
    assert metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["clip_fraction"] == 0
    assert metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["norm_ratio"] == pytest.approx(1, abs=1e-6)


def test_every_replayed_ratio_is_one_and_leaves_one_after_an_update() -> None:
    env = ClosedFormEnv(reward=brightness)
    history = train(flowgrpo(num_iterations=2), env, 2)
    assert abs(history[1]["ratio"] - 1) > 1e-6
    assert history[1]["kl"] > 1e-9


def test_windows_lie_in_the_first_half_and_the_last_step_is_deterministic() -> None:
    env = ClosedFormEnv(reward=brightness)
    method = flowgrpo(sampling_steps=10, window=2, num_groups=4, num_generations=3)
    steps = torch.cat([method.collect(env).tensors["step"] for _ in range(20)])
    assert set(steps[:, 0].tolist()) == {0, 1, 2, 3}
    assert (steps[:, 1] == steps[:, 0] + 1).all()
    starts = steps[:, 0].view(20, 4, 3)
    assert (starts == starts[:, :, :1]).all()  # one window for all of a group
    assert (starts[:, 0] != starts[:, 1]).any()  # another one for another group

    rollouts = flowgrpo(window=5).collect(ClosedFormEnv(reward=brightness))
    assert (rollouts.tensors["step"] == torch.arange(5)).all()
    with pytest.raises(ConfigError, match="expected at most 5"):
        flowgrpo(window=6)


def test_outside_the_window_sampling_is_the_ode() -> None:
    env = ClosedFormEnv(reward=brightness)
    method = flowgrpo(window=1)
    index, cond = np.arange(4), env.model.encode(TEXTS)
    with torch.no_grad():
        sample = method.sample(env, cond, index, torch.tensor([0, 0, 2, 2]))
        sigmas = env.model.sigmas(6)
        x = env.draw.noise(index, "rollout")
        for i in range(6):
            v = env.model.guided_velocity(x, sigmas[i].expand(4), cond, 3.0)
            x_next = x + (sigmas[i + 1] - sigmas[i]) * v
            for row, step in enumerate([0, 0, 2, 2]):
                if i == step:
                    assert torch.equal(sample["x"][row, 0], x[row])
                    assert not torch.allclose(sample["x_next"][row, 0], x_next[row], atol=1e-2)
                    x_next[row] = sample["x_next"][row, 0]
            x = x_next
    torch.testing.assert_close(sample["z0"], x, rtol=0, atol=1e-6)


def test_a_phase_without_any_advantage_skips_its_updates() -> None:
    env = ClosedFormEnv(reward=lambda images: np.full(len(images), 0.3))
    start = env.weights
    method = flowgrpo(updates=2)
    train(method, env, 4)
    assert env.skipped == 4
    assert env.backward_samples == 0
    assert torch.equal(env.weights, start)
    assert env.rollouts is not None
    assert env.rollouts.metrics["frac_reward_zero_std"] == 1


def test_groups_without_advantage_are_dropped_and_the_rest_is_kept_in_order() -> None:
    def only_second_group(images: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(images)) < 6, 0.5, brightness(images))

    dropped = flowgrpo().collect(ClosedFormEnv(reward=only_second_group))
    whole = flowgrpo(drop_zero_groups=False).collect(ClosedFormEnv(reward=only_second_group))
    assert dropped.metrics["frac_reward_zero_std"] == 0.5
    assert len(dropped.cond) == 6
    assert torch.equal(dropped.cond.label, whole.cond.label[6:])  # type: ignore[attr-defined]
    assert not torch.equal(dropped.cond.label, whole.cond.label[:6])  # type: ignore[attr-defined]
    assert dropped.tensors.pop("order").tolist() == [0, 1, 2, 3, 4, 5], "numbered anew"
    for key, value in dropped.tensors.items():
        assert torch.equal(value, whole.tensors[key][6:]), key


def test_updates_share_the_rollouts_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    env = ClosedFormEnv(reward=brightness)
    seen: list[torch.Tensor] = []
    original = env.model.velocity

    def recorded(x: torch.Tensor, *rest: object) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(x)
        return original(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(env.model, "velocity", recorded)
    train(flowgrpo(updates=3, num_iterations=2), env, 6)
    assert env.backward_samples == 2 * 12 * SMALL.window  # two passes over 12 samples
    assert env.draw.prompts_drawn == 2  # of one phase
    assert env.rollouts is not None
    every_state = sorted(env.rollouts.tensors["x"].reshape(-1, 2).tolist())
    for half in (torch.cat(seen[:3]), torch.cat(seen[3:])):  # each pass: three updates, both window steps at once
        assert sorted(half.tolist()) == every_state


@pytest.mark.slow
def test_the_rewarded_mode_rises() -> None:
    """From exact means, the reward pulls every class to the right, and the KL holds it back."""
    moved = []
    for beta in (0.0, 10.0):
        env = ClosedFormEnv(reward=brightness, means=MEANS, optimizer=torch.optim.Adam, lr=0.02)
        method = flowgrpo(num_groups=4, num_generations=8, beta=beta, epsilon=0.05, guidance=1.0)
        train(method, env, 1)
        assert env.rollouts is not None
        first = env.rollouts.metrics["reward_mean"]
        train(method, env, 30)
        moved.append((env.model.field.means - MEANS)[:, 0].mean().item())
        assert env.rollouts.metrics["reward_mean"] > first + 0.02
    assert moved[0] > 0.3
    assert 0 < moved[1] < 0.8 * moved[0]


def test_reinforce_does_not_clip() -> None:
    weights = []
    for loss_type in ("grpo", "reinforce"):
        env = ClosedFormEnv(reward=brightness)
        train(flowgrpo(loss_type=loss_type, epsilon=1e-9, num_iterations=2), env, 2)
        weights.append(env.weights)
    assert not torch.equal(weights[0], weights[1])


def test_step_before_collect_is_refused() -> None:
    with pytest.raises(PluginError, match="before collect"):
        flowgrpo().step(ClosedFormEnv(reward=brightness))


# What all methods have in common


@pytest.mark.parametrize(
    "method", [sft(), soar(stochastic_paths=1, num_points=2), flowgrpo(window=3), flowgrpo(updates=2)]
)
def test_micro_batches_do_not_change_the_update(method: SFT) -> None:
    """Up to the order of a sum of at most 16 float32 terms of size 1."""
    whole = ClosedFormEnv(reward=brightness, batch_size=12, micro_batch=12)
    parts = ClosedFormEnv(reward=brightness, batch_size=12, micro_batch=5)
    before = whole.weights
    expected, actual = train(method, whole, 2), train(method, parts, 2)
    assert (whole.weights - before).abs().max() > 1e-5
    torch.testing.assert_close(parts.weights, whole.weights, rtol=0, atol=2e-6)
    for a, b in zip(expected, actual, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", [sft(), soar(num_points=2), flowgrpo()])
def test_the_global_random_state_stays_untouched(method: SFT) -> None:
    torch.manual_seed(1)
    np_state = np.random.get_state()[1].copy()  # noqa: NPY002
    state = torch.get_rng_state()
    train(method, ClosedFormEnv(reward=brightness), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()  # noqa: NPY002


# Prompt order, against trl


def visited(env: ClosedFormEnv, method: FlowGRPO, phases: int) -> list[int]:
    """The prompts of `phases` rollout phases in the order in which their pictures are scored."""
    seen: list[int] = []

    def record(images: np.ndarray, prompts: list[str], metadata: object) -> np.ndarray:
        seen.extend(TEXTS.index(p) for p in prompts)
        return np.arange(len(images), dtype=np.float32)

    env.score = record  # type: ignore[method-assign,assignment]
    for _ in range(phases):
        rollouts: Rollouts = method.collect(env)
        assert rollouts.cond.label.tolist() == seen[-12:]  # type: ignore[attr-defined]
    return seen


@pytest.mark.slow
def test_prompt_order_is_that_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer.utils import RepeatSampler  # here, because it takes seconds that no other test needs

    sampler = RepeatSampler(TEXTS, mini_repeat_count=6, batch_size=2, shuffle=False)
    shuffled = RepeatSampler(TEXTS, mini_repeat_count=6, batch_size=2, shuffle=True, seed=0)
    ours = np.array(visited(ClosedFormEnv(), flowgrpo(), 2)).reshape(2, 2, 6)
    theirs = np.array(list(shuffled)).reshape(2, 2, 6)
    for order in (ours, theirs):  # phases of two prompts, six adjacent times each, all different within an epoch
        assert (order == order[:, :, :1]).all()
        assert sorted(order[:, :, 0].flatten()) == [0, 1, 2, 3]

    monkeypatch.setattr("tests.support.closed_form.rng.permutation", lambda seed, name, epoch, count: np.arange(count))
    assert visited(ClosedFormEnv(), flowgrpo(), 2) == list(sampler)


def test_pictures_are_scored_while_the_next_ones_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    env, method, done = ClosedFormEnv(reward=brightness, micro_batch=5), flowgrpo(), list[str]()
    whole = flowgrpo().collect(ClosedFormEnv(reward=brightness, micro_batch=5))
    sample, submit = method.sample, env.submit

    def told(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (done.append(what), call(*given))[1]

    monkeypatch.setattr(method, "sample", told("sample", sample))
    monkeypatch.setattr(env, "submit", told("submit", lambda *given: told("wait", submit(*given))))
    rollouts = method.collect(env)
    assert done == ["sample", "submit"] * 3 + ["wait"] * 3  # 12 pictures, 5 at once
    assert torch.equal(rollouts.tensors["advantage"], whole.tensors["advantage"])


def test_every_rollout_has_its_own_index() -> None:
    index, group = members(np.array([4, 5]), 6)
    assert index.tolist() == list(range(24, 36))
    assert group.tolist() == [0] * 6 + [1] * 6


def test_advantages_are_those_of_the_group() -> None:
    env = ClosedFormEnv(reward=brightness)
    rollouts = flowgrpo(advantage_clip=1.0).collect(env)
    rewards = []
    env = ClosedFormEnv(reward=lambda images: rewards.append(brightness(images)) or rewards[-1])
    flowgrpo().collect(env)
    expected = flow.group_advantages(torch.from_numpy(rewards[0].astype(np.float32)).view(2, 6), 1e-4)
    torch.testing.assert_close(rollouts.tensors["advantage"], expected.clamp(-1, 1).flatten())
    assert expected.abs().max() > 1
