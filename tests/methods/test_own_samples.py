"""Methods that learn on the forward process from their own samples, against their formulas written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import flow
from bench.api import ConfigError, PluginError, Rollouts
from methods._own_samples import OwnSamples
from methods.awm import AWM
from methods.dgpo import DGPO
from methods.diffusionnft import DiffusionNFT
from methods.flowdpo import FlowDPO
from methods.flowgrpo import FlowGRPO
from methods.raft import RAFT
from tests.support.closed_form import ClosedFormEnv, train

ALL = (RAFT, DiffusionNFT, AWM, DGPO, FlowDPO)
SMALL = {"num_groups": 2, "num_generations": 6, "sampling_steps": 4, "levels": 2, "updates": 1}


def brightness(images: np.ndarray) -> np.ndarray:
    """Grey level of the first coordinate: rises with x."""
    return images[:, 0, 0, 0] / 255


def made(cls: type[OwnSamples], **options: object) -> OwnSamples:
    return cls(cls.Config(**{**SMALL, **options}))  # type: ignore[arg-type]


def moved(method: OwnSamples, by: float = 0.1) -> tuple[ClosedFormEnv, ClosedFormEnv, Rollouts]:
    """Two equal environments whose policy has left the one that sampled, the old one and the reference."""
    env, twin = ClosedFormEnv(reward=brightness), ClosedFormEnv(reward=brightness)
    for each in (env, twin):
        each.rollouts = method.collect(each)
        with torch.no_grad():
            each.model.field.means.add_(by)
    assert twin.rollouts is not None
    return env, twin, twin.rollouts


def each_level(env: ClosedFormEnv, rollouts: Rollouts, key: Callable[[int], int] = int) -> list[tuple[Tensor, ...]]:
    """Row, z, sigma, target and label of every sample at both noise levels, drawn by the key of its index."""
    found = []
    t = rollouts.tensors
    for row in range(len(rollouts.cond)):
        for level in range(2):
            index = np.array([key(int(t["index"][row]))])
            z1, s = env.draw.noise(index, f"z1.level{level}"), env.draw.sigma(index, f"sigma.level{level}")
            z0, label = t["z0"][row : row + 1], rollouts.cond.label[row : row + 1]  # type: ignore[attr-defined]
            found.append((torch.tensor(row), (1 - s) * z0 + s * z1, s, z1 - z0, label))
    return found


def assert_update(method: OwnSamples, env: ClosedFormEnv, twin: ClosedFormEnv, loss: Tensor) -> dict[str, float]:
    """One step equals the optimiser's step on this loss, which moves the weights."""
    before = env.weights
    loss.backward()
    twin.optimizer.step()
    metrics = method.step(env)
    assert (env.weights - before).abs().max() > 1e-4
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-5)
    return metrics


# What they have in common


@pytest.mark.parametrize("cls", ALL)
def test_micro_batches_do_not_change_the_update(cls: type[OwnSamples]) -> None:
    """Up to the order of a sum of at most 24 float32 terms of size 1; groups larger than a micro-batch among them."""
    whole, parts = (ClosedFormEnv(reward=brightness, micro_batch=size) for size in (24, 5))
    before = whole.weights
    expected, actual = train(made(cls), whole, 2), train(made(cls), parts, 2)
    assert (whole.weights - before).abs().max() > 1e-5
    torch.testing.assert_close(parts.weights, whole.weights, rtol=0, atol=5e-6)
    for a, b in zip(expected, actual, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("cls", ALL)
def test_groups_without_advantage_are_left_out(cls: type[OwnSamples]) -> None:
    def only_second_group(images: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(images)) < 6, 0.5, brightness(images))

    dropped = made(cls).collect(ClosedFormEnv(reward=only_second_group))
    whole = made(cls).collect(ClosedFormEnv(reward=brightness))
    half = len(whole.cond) // 2
    assert torch.equal(dropped.tensors["z0"], whole.tensors["z0"][half:])
    assert dropped.tensors["group"].tolist() == [0] * half
    assert dropped.metrics["frac_reward_zero_std"] == 0.5

    env = ClosedFormEnv(reward=lambda images: np.full(len(images), 0.3))
    start = env.weights
    train(made(cls), env, 2)
    assert env.skipped == 2 and torch.equal(env.weights, start)


def test_updates_take_whole_groups_each_once() -> None:
    env, method = ClosedFormEnv(reward=brightness), made(RAFT, num_groups=4, updates=2)
    env.rollouts = method.collect(env)
    assert env.rollouts.tensors["group"].tolist() == [0, 1, 2, 3]
    seen = []
    noised = method.noised
    method.noised = lambda e, r, rows, *rest: seen.append(rows.tolist()) or noised(e, r, rows, *rest)  # type: ignore[method-assign]
    for used in range(2):
        env.rollouts.used = used
        method.step(env)
    assert seen == [[0, 2], [1, 3]]
    with pytest.raises(ConfigError, match="expected at most 2"):
        made(RAFT, updates=3)
    with pytest.raises(PluginError, match="before collect"):
        made(RAFT).step(ClosedFormEnv(reward=brightness))


@pytest.mark.parametrize("cls", [RAFT, FlowGRPO])
def test_a_reward_of_groups_gets_whole_groups_of_one_prompt(cls: type[Any]) -> None:
    """Whatever a micro-batch holds: its pictures, its scores and its advantages are those of single scores."""
    method = made(RAFT) if cls is RAFT else FlowGRPO(FlowGRPO.Config(num_groups=2, num_generations=6, updates=1))
    expected = method.collect(ClosedFormEnv(reward=brightness, micro_batch=5))
    calls: list[list[str]] = []
    env = ClosedFormEnv(reward=brightness, micro_batch=5)
    env.scores_groups = True
    submit = env.submit
    env.submit = lambda images, prompts, metadata: calls.append(list(prompts)) or submit(images, prompts, metadata)  # type: ignore[assignment,func-returns-value,method-assign]
    found = method.collect(env)
    assert [(len(call), len(set(call))) for call in calls] == [(6, 1), (6, 1)]
    assert found.metrics == expected.metrics
    for name, value in expected.tensors.items():
        assert torch.equal(found.tensors[name], value), name


def test_sampling_is_the_euler_ode() -> None:
    env, rollouts = ClosedFormEnv(reward=brightness), made(AWM, guidance=3.0).collect(ClosedFormEnv(reward=brightness))
    x, sigmas = env.draw.noise(rollouts.tensors["index"].numpy(), "rollout"), env.model.sigmas(4)
    with torch.no_grad():
        for i in range(4):
            v = env.model.guided_velocity(x, sigmas[i].expand(12), rollouts.cond, 3.0)
            x = x + (sigmas[i + 1] - sigmas[i]) * v
    torch.testing.assert_close(rollouts.tensors["z0"], x, rtol=0, atol=1e-6)


# RAFT


def test_raft_is_sft_on_the_best_of_each_group() -> None:
    method = made(RAFT)
    env, twin, rollouts = moved(method)
    everything = made(AWM).collect(ClosedFormEnv(reward=brightness))
    groups = everything.tensors["z0"].view(2, 6, 2)
    best = groups[torch.arange(2), groups[:, :, 0].argmax(1)]  # brightness rises with x
    assert torch.equal(rollouts.tensors["z0"], best)
    errors = [((twin.model.field(z, s, label) - u) ** 2).mean() for _, z, s, u, label in each_level(twin, rollouts)]
    assert_update(method, env, twin, torch.stack(errors).mean())


# DiffusionNFT


def test_diffusionnft_update_is_the_formula() -> None:
    method = made(DiffusionNFT, beta=0.5, advantage_clip=1.0, kl_beta=0.3, scale_rewards="group")
    env, twin, rollouts = moved(method)
    model, total = twin.model, torch.zeros(())
    rewards = []
    made(AWM).collect(ClosedFormEnv(reward=lambda x: rewards.append(brightness(x)) or rewards[-1]))
    a = flow.group_advantages(torch.from_numpy(rewards[0].astype(np.float32)).view(2, 6)).flatten()
    assert a.abs().max() > 1
    for row, z, s, u, label in each_level(twin, rollouts):
        q = (0.5 + a[row].clamp(-1, 1) / 2).item()
        v, v_old, v_ref = model.field(z, s, label), model.old(z, s, label), model.reference(z, s, label)
        plus, minus = 0.5 * v_old.detach() + 0.5 * v, 1.5 * v_old.detach() - 0.5 * v
        for share, side in ((q, plus), (1 - q, minus)):
            x0 = z - s * side
            z0 = z - s * u
            total = total + share / 0.5 * ((x0 - z0) ** 2).mean() / (x0 - z0).abs().mean().detach()
        total = total + 0.3 * ((v - v_ref.detach()) ** 2).mean()
    metrics = assert_update(method, env, twin, total / 24)
    assert metrics["old_distance"] > 0


def test_diffusionnft_of_the_best_alone_is_matching_with_a_normalised_error() -> None:
    """b = 1, q = 1: v+ is v, and the old policy plays no part."""
    v, u, s = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0.2, 0.5, 0.9])
    losses = [flow.nft_loss(v, old, u, s, torch.ones(3), 1.0) for old in (torch.zeros(3, 5), torch.randn(3, 5))]
    assert torch.equal(losses[0], losses[1])
    torch.testing.assert_close(losses[0], s * (v - u).square().mean(1) / (v - u).abs().mean(1))


def test_the_old_policy_follows_before_each_phase_and_samples() -> None:
    env, method = ClosedFormEnv(reward=brightness), made(DiffusionNFT, old_rate=0.2, old_decay=0.3)
    weights = [env.model.field.means.detach().clone()]
    old = [weights[0]]
    for update in range(4):
        rollouts = method.collect(env)
        d = min(0.2 * update, 0.3)
        old.append(d * old[-1] + (1 - d) * weights[-1])
        torch.testing.assert_close(env.model.old.means.detach(), old[-1], rtol=0, atol=1e-6)
        env.rollouts = rollouts
        method.step(env)
        weights.append(env.model.field.means.detach().clone())
    assert method.state_dict() == {"updates_made": 4}
    again = made(DiffusionNFT, old_rate=0.2, old_decay=0.3)
    again.load_state_dict(method.state_dict())
    assert again.updates_made == 4  # type: ignore[attr-defined]


# AWM


@pytest.mark.parametrize("used", [0, 1])
def test_awm_update_is_the_formula(used: int) -> None:
    """Of the first update of a phase, whose ratio is 1, and of the second one, which is off the sampling policy."""
    method = made(AWM, beta=0.2, old_beta=0.4, power=0.5, epsilon=0.01, updates=2, advantage_clip=1.0)
    env, twin, rollouts = moved(method)
    model, total, sampled = twin.model, torch.zeros(()), ClosedFormEnv(reward=brightness).model.field
    a, ratios = rollouts.tensors["advantage"], []
    env.rollouts.used = used  # type: ignore[union-attr]
    for row, z, s, u, label in each_level(twin, rollouts):
        if rollouts.tensors["group"][row] != used:
            continue
        v, v_old, v_ref = model.field(z, s, label), model.old(z, s, label), model.reference(z, s, label)
        log_p, log_old = (-2 * s * ((w - u).square().mean() ** 0.5 - 1e-5) for w in (v, sampled(z, s, label)))
        rho = (log_p - (log_old if used else log_p).detach()).exp().squeeze()
        ratios.append(rho.item())
        total = total + torch.maximum(-a[row] * rho, -a[row] * rho.clamp(0.99, 1.01))
        total = total + 0.2 * (v - v_ref.detach()).square().mean() + 0.4 * (v - v_old.detach()).square().mean()
    metrics = assert_update(method, env, twin, total / 12)
    assert metrics["ratio"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert (metrics["clip_fraction"] > 0) == bool(used)


def test_awm_passes_what_it_says() -> None:
    """An old log-likelihood for later updates alone; the old policy and the reference only where they weigh."""
    env = ClosedFormEnv(reward=brightness)
    train(made(AWM, updates=2, beta=0.0, old_beta=0.0), env, 1)
    assert env.model.passes == {"grad": 12, "no_grad": 12 * 4 + 6 * 2, "reference": 0}
    env = ClosedFormEnv(reward=brightness)
    train(made(AWM), env, 1)
    assert env.model.passes == {"grad": 24, "no_grad": 12 * 4 + 24, "reference": 24}


# DGPO and Flow-DPO


def first_of_group(index: int) -> int:
    return index - index % 6


def test_dgpo_update_is_the_formula() -> None:
    method = made(DGPO, beta=3.0, kl_beta=0.2, advantage_clip=1.2)
    env, twin, rollouts = moved(method)
    model, a = twin.model, rollouts.tensors["advantage"]
    e, e_ref, total = torch.zeros(12, 2), torch.zeros(12, 2), torch.zeros(())
    for place, (row, z, s, u, label) in enumerate(each_level(twin, rollouts, first_of_group)):
        v, v_ref = model.field(z, s, label), model.reference(z, s, label).detach()
        e[row, place % 2], e_ref[row, place % 2] = (v - u).square().mean(), (v_ref - u).square().mean()
        total = total + 0.2 * (v - v_ref).square().mean()
    for group in (slice(0, 6), slice(6, 12)):
        w = torch.sigmoid(3.0 * (a[group, None] * (e - e_ref)[group]).sum(0) / 6).detach()
        assert ((w - 0.5).abs() > 1e-3).all()
        total = total + (w * a[group, None] * e[group]).sum()
    assert_update(method, env, twin, total / 24)


def test_flowdpo_update_is_that_of_its_logistic_loss() -> None:
    method = made(FlowDPO, beta=3.0)
    env, twin, rollouts = moved(method)
    model, a = twin.model, rollouts.tensors["advantage"]
    assert a.tolist() in ([1, -1, 1, -1], [1, -1, -1, 1], [-1, 1, 1, -1], [-1, 1, -1, 1])
    gain = torch.zeros(4, 2)
    for place, (row, z, s, u, label) in enumerate(each_level(twin, rollouts, first_of_group)):
        v, v_ref = model.field(z, s, label), model.reference(z, s, label).detach()
        gain[row, place % 2] = (v - u).square().mean() - (v_ref - u).square().mean()
    winner, loser = gain[a > 0], gain[a < 0]  # a group each, in order
    loss = -torch.nn.functional.logsigmoid(-3.0 / 2 * (winner - loser)).mean()
    metrics = assert_update(method, env, twin, loss)
    assert metrics["dpo"] == pytest.approx(loss.item(), rel=1e-5)


def test_flowdpo_takes_the_best_and_the_worst() -> None:
    everything = made(AWM).collect(ClosedFormEnv(reward=brightness)).tensors["z0"].view(2, 6, 2)
    pairs = made(FlowDPO).collect(ClosedFormEnv(reward=brightness)).tensors
    for group in range(2):
        x = everything[group, :, 0]
        two = pairs["group"] == group
        assert set(pairs["z0"][two][:, 0].tolist()) == {x.max().item(), x.min().item()}
        assert pairs["z0"][two & (pairs["advantage"] > 0)][0, 0] == x.max()


def test_dgpo_of_pairs_is_flowdpo_but_for_its_scale() -> None:
    """Of two samples the group's advantages are 1 and -1; Flow-DPO's loss is b times larger."""
    settings = {"num_generations": 2, "kl_beta": 0.0, "beta": 4.0}
    moves = []
    for cls in (DGPO, FlowDPO):
        env, _, _ = moved(made(cls, **settings))
        before = env.weights
        made(cls, **settings).step(env)
        moves.append(env.weights - before)
    assert moves[0].abs().max() > 1e-4
    torch.testing.assert_close(moves[1], 4 * moves[0], rtol=0.02, atol=1e-5)  # deviations + 1e-4 divide advantages


def test_a_group_larger_than_a_micro_batch_takes_one_pass_more() -> None:
    for micro_batch, ahead in ((6, 0), (4, 24)):
        env = ClosedFormEnv(reward=brightness, micro_batch=micro_batch)
        train(made(DGPO), env, 1)
        assert env.model.passes == {"grad": 24, "no_grad": 12 * 4 + ahead, "reference": 24}


# Rewards that abstain


@pytest.mark.parametrize("cls", [*ALL, FlowGRPO])
def test_a_picture_that_the_reward_abstains_from_is_left_out_of_its_group(cls: type[Any]) -> None:
    """Others of its group keep the advantages of a group without it; DGPO leaves out the group."""

    def abstaining(images: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(images)) == 2, np.nan, brightness(images))

    small = {"num_groups": 2, "num_generations": 6, "sampling_steps": 4, "updates": 1}
    method = made(cls) if issubclass(cls, OwnSamples) else cls(cls.Config(**small))
    whole = np.concatenate([s() for s in _scores(method)])
    rollouts = method.collect(ClosedFormEnv(reward=abstaining))
    judged = np.delete(whole, 2)
    assert rollouts.metrics["reward_abstained"] == 1
    assert rollouts.metrics["reward_mean"] == pytest.approx(judged.mean(), rel=1e-5)
    assert rollouts.metrics["reward_std"] == pytest.approx(judged.std(), rel=1e-4)
    groups = [np.delete(whole[:6], 2), whole[6:]]
    assert rollouts.metrics["reward_group_std"] == pytest.approx(np.mean([g.std() for g in groups]), rel=1e-4)
    if cls is not FlowGRPO:
        assert 2 not in rollouts.tensors["index"].tolist()
    kept = {RAFT: 2, FlowDPO: 4, DGPO: 6}.get(cls, 11)
    assert len(rollouts.cond) == kept and rollouts.tensors["advantage"].isfinite().all()
    if cls is AWM:
        a = (groups[0] - groups[0].mean()) / (judged.std() + 1e-4) / method.config.advantage_clip
        assert rollouts.tensors["advantage"][:5].tolist() == pytest.approx(a.tolist(), rel=1e-4, abs=1e-6)
    env = ClosedFormEnv(reward=abstaining)
    start = env.weights
    train(method, env, 2)
    assert env.weights.isfinite().all() and not torch.equal(env.weights, start)


def _scores(method: Any) -> list[Callable[[], np.ndarray]]:
    """What a reward that never abstains gives to the first rollouts of a method."""
    env, seen = ClosedFormEnv(reward=brightness, micro_batch=16), []
    submit = env.submit
    env.submit = lambda *given: seen.append(submit(*given)) or seen[-1]  # type: ignore[method-assign]
    method.collect(env)
    return seen


@pytest.mark.parametrize("cls", [*ALL, FlowGRPO])
def test_where_a_reward_abstains_from_everything_nothing_is_trained(cls: type[Any]) -> None:
    small = {"num_groups": 2, "num_generations": 6, "sampling_steps": 4, "updates": 1}
    method = made(cls) if issubclass(cls, OwnSamples) else cls(cls.Config(**small))
    env = ClosedFormEnv(reward=lambda images: np.full(len(images), np.nan))
    start = env.weights
    env.rollouts = method.collect(env)
    assert env.rollouts.metrics == {"frac_reward_zero_std": 1.0, "reward_abstained": 12.0}
    method.step(env)
    assert env.skipped == 1 and torch.equal(env.weights, start)
