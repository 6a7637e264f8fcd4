"""The controls of SFT and SOAR: what they share with these number by number, and where they differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import flow
from bench.api import Method
from bench.config.built_in_tasks import TASKS
from bench.datasets.mixture import DEVIATION, MEANS, SHIFT
from methods.continued import Continued
from methods.sft import SFT
from methods.sft_jitter import SFTJitter
from methods.sft_resampled import SFTResampled
from methods.soar import SOAR
from tests.support.closed_form import ClosedFormEnv


def stepped(method: Method, **options: int) -> ClosedFormEnv:
    """An environment after one update; three samples at a time, so that passes are cut."""
    env = ClosedFormEnv(**{"batch_size": 8, "micro_batch": 3, **options})  # type: ignore[arg-type]
    method.step(env)
    return env


def resampled(**options: object) -> SFTResampled:
    return SFTResampled(SFTResampled.Config(**options))  # type: ignore[arg-type]


def jitter(**options: object) -> SFTJitter:
    return SFTJitter(SFTJitter.Config(**options))  # type: ignore[arg-type]


def soar(**options: object) -> SOAR:
    return SOAR(SOAR.Config(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [
        Continued(Continued.Config()), resampled(num_points=0), resampled(weight=0.0), jitter(num_points=0),
        jitter(weight=0.0),
    ],
)  # fmt: skip
def test_without_what_is_added_a_control_is_sft(method: Method) -> None:
    assert torch.equal(stepped(method).weights, stepped(SFT(SFT.Config())).weights)


def test_the_resampled_loss_is_the_formula() -> None:
    """(sum base + lambda sum aux) / (B + lambda N B), sample by sample, at SOAR's own noise levels."""
    n, weight, k = 3, 0.5, 20
    twin = ClosedFormEnv(batch_size=8)
    total = torch.zeros(())
    for i in range(8):
        index, label = np.array([i]), torch.tensor([i % 4])
        z0 = MEANS[label] + DEVIATION * twin.draw.noise(index, "data")
        z1, s0 = twin.draw.noise(index), twin.draw.sigma(index)
        t1 = s0 / (SHIFT - (SHIFT - 1) * s0) - 1 / k
        assert t1 > 1 / k  # none of these samples reaches the floor
        s1 = SHIFT * t1 / (1 + (SHIFT - 1) * t1)
        further = [s1 + (1 - s1) * twin.draw.uniform(index, f"sigma.path0.point{point}") for point in range(n)]
        for s, share in [(s0, 1.0), *((s, weight) for s in further)]:
            v = twin.model.field((1 - s) * z0 + s * z1, s, label)
            total = total + share * ((v - (z1 - z0)) ** 2).mean()
    (total / (8 * (1 + weight * n))).backward()
    twin.optimizer.step()
    env = stepped(resampled(num_points=n, weight=weight, rollout_steps=k))
    torch.testing.assert_close(env.weights, twin.weights, rtol=0, atol=1e-6)
    assert env.model.passes == {"grad": 8 * 4, "no_grad": 0, "reference": 0}


def test_soar_with_ever_shorter_rollouts_becomes_the_controls() -> None:
    """At K = 100,000 the updates agree to 2e-6; at K = 20 they differ by far more."""
    near, far = ({"num_points": 2, "rollout_steps": k} for k in (100_000, 20))
    start = ClosedFormEnv(batch_size=8).weights
    for other in (resampled, jitter):
        torch.testing.assert_close(stepped(other(**near)).weights, stepped(soar(**near)).weights, rtol=0, atol=2e-6)
        assert (stepped(other(**far)).weights - stepped(soar(**far)).weights).abs().max() > 1e-4
    assert (stepped(soar(**near)).weights - start).abs().max() > 1e-2


def test_jitter_is_as_far_off_the_path_as_soar_and_elsewhere() -> None:
    env = ClosedFormEnv(batch_size=8)
    (batch,) = env.draw.batches()
    z1, s0 = env.draw.noise(batch.index), env.draw.sigma(batch.index)
    s1 = flow.rollout_sigma(s0, SHIFT, 20)
    z = flow.interpolate(batch.z0, z1, s0)
    straight = (1 - s1[:, None]) * batch.z0 + s1[:, None] * z1
    v = env.model.velocity(z, s0, batch.cond).detach()
    for path in (0, 1):
        own = soar().rollout(env, z, v, s0, s1, batch, path) - straight
        turned = jitter().rollout(env, z, v, s0, s1, batch, path) - straight
        torch.testing.assert_close(turned.norm(dim=1), own.norm(dim=1), rtol=1e-4, atol=1e-6)
        direction = env.draw.noise(batch.index, f"jitter.path{path}")
        cosine = torch.nn.functional.cosine_similarity(turned, direction, dim=1)
        torch.testing.assert_close(cosine, torch.ones(8), rtol=0, atol=1e-3)


def test_jitter_passes_as_often_as_soar() -> None:
    assert stepped(jitter(num_points=2)).model.passes == stepped(soar(num_points=2)).model.passes


def test_a_task_without_its_selection_keeps_all_candidates() -> None:
    from bench.config.task import Task

    task = Task(**{"name": "alignment", **TASKS["scenes"]["alignment"]})
    assert (task.select, task.top_share) == ("scenes-clip", 0.35)
    assert (task.unselected.select, task.unselected.top_share) == (None, 1.0)
    assert task.unselected.candidates == task.candidates
