"""What must not change an update: how a batch is cut, ordered and rounded, and loss terms that are switched off.

All of it on the real stage around the tests' tiny pipeline, whose latents have 1,024 dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import flow
from bench.api import Batch, Method, Reward, Rollouts
from bench.config.settings import Train
from bench.datasets.worlds import load_world
from bench.preflight.conformance.fixtures import Fixtures
from bench.preflight.conformance.observers import record_gradients
from bench.scoring.scorer import Scorer
from bench.training.stage import Stage
from methods.flowgrpo import FlowGRPO
from methods.sft import SFT
from methods.soar import SOAR

BATCH = 32
POINTS = {"num_points": 1, "stochastic_paths": 1, "fresh_noise": True}
# 32 pictures, whose groups are not the micro-batches of 8: the mean advantage of a micro-batch is not 0.
GROUPS = {"num_groups": 2, "num_generations": 16, "updates": 1, "sampling_steps": 6, "window": 2}

every_method = pytest.mark.parametrize(
    ("method", "options"), [(SFT, {}), (SOAR, POINTS), (FlowGRPO, GROUPS)], ids=["sft", "soar", "flowgrpo"]
)


@pytest.fixture(scope="module")
def fixtures(tiny_pipeline: Path) -> Fixtures:
    return Fixtures(load_world("scenes", str(tiny_pipeline)))


def enter(fixtures: Fixtures, method: type[Method], options: Mapping[str, Any], **train: Any) -> Stage:
    """A stage whose weights have left the reference, so that a KL has a gradient; the gradient is not clipped."""
    settings = Train(**{"batch_size": BATCH, "micro_batch": BATCH, "clip_norm": 1e9, **train})
    stage = fixtures.stage(method, options, settings)
    with torch.no_grad():
        for parameter in stage.env.optimizer.parameters:
            parameter.mul_(1.05)
    return stage


def collected(stage: Stage) -> Rollouts | None:
    return stage.method.collect(stage.env) if stage.method.collects() else None


@dataclass
class Update:
    """What one step found: losses by name, in the order of its calls; their number; the gradient; what it logged."""

    losses: dict[str, Tensor]
    calls: dict[str, int]
    gradient: Tensor
    metrics: dict[str, float]


def update(stage: Stage, rollouts: Rollouts | None) -> Update:
    """One step of the method, from these rollouts."""
    seen: dict[str, list[Tensor]] = {}
    backward = stage.env.backward

    def watched(terms: Mapping[str, tuple[float, Tensor]], count: float) -> None:
        for name, (_, loss) in terms.items():
            seen.setdefault(name, []).append(loss.detach())
        backward(terms, count)

    stage.env.backward = watched  # type: ignore[method-assign]
    stage.env.rollouts = rollouts
    with record_gradients() as applied:
        metrics = stage.method.step(stage.env)
    (gradient,) = applied
    losses = {name: torch.cat(calls) for name, calls in seen.items()}
    return Update(losses, {name: len(calls) for name, calls in seen.items()}, gradient, metrics)


def distance(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected|."""
    return float((actual - expected).norm() / expected.norm())


# Accumulation


@every_method
def test_four_micro_batches_of_eight_are_one_of_thirty_two(
    fixtures: Fixtures, method: type[Method], options: dict[str, Any]
) -> None:
    """Gradients, because AdamW's weights forget the gradient's scale; to 1e-5, a hundred times float32's rounding.

    The same sums are taken in another order, over 32 samples and all layers.
    """
    whole = enter(fixtures, method, options)
    rollouts = collected(whole)
    expected = update(whole, rollouts)
    actual = update(enter(fixtures, method, options, micro_batch=BATCH // 4), rollouts)
    assert actual.calls == {name: 4 * count for name, count in expected.calls.items()}
    assert distance(actual.gradient, expected.gradient) < 1e-5
    assert actual.metrics == pytest.approx(expected.metrics, rel=1e-5, abs=1e-6)  # the mean of advantages is 0


# Precision


@pytest.mark.parametrize(
    ("method", "options"),
    [(SFT, {}), (SOAR, POINTS), (FlowGRPO, {**GROUPS, "guidance": 1.0, "beta": 0.0})],
    ids=["sft", "soar", "flowgrpo"],
)
def test_bfloat16_agrees_with_float32(fixtures: Fixtures, method: type[Method], options: dict[str, Any]) -> None:
    """Losses to 5e-4 and gradients to 1.5e-2, where bfloat16 rounds to 2^-9, 2e-3; about twice what was seen.

    A loss averages the rounding over all dimensions of a sample, a gradient gathers that of all layers; states or noise
    levels rounded to bfloat16 fail here. Flow-GRPO runs without guidance, which multiplies the rounding by its scale,
    and without the KL, which squares a small difference.
    """
    full = enter(fixtures, method, options)
    rollouts = collected(full)
    expected = update(full, rollouts)
    actual = update(enter(fixtures, method, options, precision="bfloat16"), rollouts)
    for name, losses in expected.losses.items():
        assert 0 < distance(actual.losses[name], losses) < 5e-4
    assert 0 < distance(actual.gradient, expected.gradient) < 1.5e-2


def test_bfloat16_reads_a_small_kl_too_large_at_guidance_3(fixtures: Fixtures) -> None:
    """By 5 to 20 % of a KL of 7e-5, all of it upwards, which is why a run says so; the policy's loss stays as it is.

    Rounding moves both means independently, so its variance adds to their squared distance. It comes from the passes:
    the arithmetic after them is float32.
    """
    options = {**GROUPS, "guidance": 3.0}
    full = enter(fixtures, FlowGRPO, options)
    rollouts = collected(full)
    expected = update(full, rollouts)
    actual = update(enter(fixtures, FlowGRPO, options, precision="bfloat16"), rollouts)
    assert float(expected.losses["kl"].mean()) == pytest.approx(7.5e-5, rel=0.05)
    assert 0.05 < distance(actual.losses["kl"], expected.losses["kl"]) < 0.2
    assert actual.losses["kl"].mean() > 1.05 * expected.losses["kl"].mean()
    assert distance(actual.losses["policy"], expected.losses["policy"]) < 5e-4


# Terms that are switched off


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"num_points": 0}], ids=["weight", "num_points"])
def test_soar_without_its_loss_is_sft_bit_for_bit(fixtures: Fixtures, options: dict[str, Any]) -> None:
    """Weights and moments, metrics, and the ledger too: the rollout does not even run."""
    runs = []
    for method, its_options in ((SFT, {}), (SOAR, options)):
        stage = enter(fixtures, method, its_options, batch_size=8, micro_batch=4, caption_dropout=0.3)
        metrics = [stage.advance() for _ in range(3)]
        tensors = {name: t.numpy().tobytes() for name, t in stage.tensors().items()}
        runs.append((tensors, metrics, stage.limit.ledger.facts()))
    sft, soar = runs
    assert sft[0].keys() == soar[0].keys()
    assert [name for name in sft[0] if sft[0][name] != soar[0][name]] == []
    assert sft[1:] == soar[1:]


class PromptLength(Reward):
    """Scores the prompt alone, so that a group's rewards are equal and those of different groups are not."""

    name: ClassVar[str] = "prompt-length"
    range: ClassVar[tuple[float, float]] = (0.0, 10.0)

    def __call__(self, images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """A hundredth of the prompt's length, (B,) float32."""
        return np.array([len(prompt) / 100 for prompt in prompts], np.float32)


def kl_gradient(stage: Stage, rollouts: Rollouts) -> Tensor:
    """The gradient (parameters,) of beta times the KL to the reference alone, mean over samples and window.

    Through both branches of the guided velocity, or through the conditional one alone.
    """
    c, model = stage.method.config, stage.env.model

    def guided(x: Tensor, s: Tensor) -> Tensor:
        v_u, v_c = (model.velocity(x, s, cond) for cond in (model.null(rollouts.cond), rollouts.cond))
        return flow.guide(v_u.detach() if c.detach_unconditional else v_u, v_c, c.guidance)

    sigmas, total = model.sigmas(c.sampling_steps), torch.zeros(())
    for k in range(c.window):
        x, step = rollouts.tensors["x"][:, k], rollouts.tensors["step"][:, k]
        s, s_next = sigmas[step], sigmas[step + 1]
        (mean, std), (mean_ref, _) = (
            flow.sde_mean_std(x, v, s, s_next, c.noise_level, sigmas[1])
            for v in (guided(x, s), model.reference_velocity(x, s, rollouts.cond, c.guidance))
        )
        total = total + c.beta * flow.gaussian_kl(mean, mean_ref, std).mean() / c.window
    parts = torch.autograd.grad(total, stage.env.optimizer.parameters, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("beta", "detached"), [(0.0, True), (0.5, True), (0.5, False)])
def test_equal_rewards_leave_only_the_gradient_of_the_kl(fixtures: Fixtures, beta: float, detached: bool) -> None:
    """To 1e-6 of its largest entry, and exactly nothing at beta 0; with and without the unconditional branch."""
    options = {
        **GROUPS, "num_groups": 4, "num_generations": 7, "beta": beta, "drop_zero_groups": False,
        "detach_unconditional": detached,
    }  # fmt: skip
    stage = enter(fixtures, FlowGRPO, options)
    stage.env.submit = Scorer(PromptLength()).submit_training_scores  # type: ignore[method-assign]
    rollouts = stage.method.collect(stage.env)
    assert rollouts.metrics["frac_reward_zero_std"] == 1
    assert rollouts.metrics["reward_std"] > 0
    found = update(stage, rollouts).gradient
    expected = kl_gradient(enter(fixtures, FlowGRPO, options), rollouts)
    assert bool(expected.any()) == (beta > 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


# Order


def permuted(batch: Batch, order: Tensor) -> Batch:
    rows = order.tolist()
    prompts, metadata = [batch.prompts[i] for i in rows], [batch.metadata[i] for i in rows]
    return Batch(batch.z0[order], batch.cond[order], prompts, metadata, batch.index[rows])


@every_method
def test_a_permuted_batch_has_permuted_losses(
    fixtures: Fixtures, method: type[Method], options: dict[str, Any]
) -> None:
    """To 1e-4: a KL is the square of a difference of velocities that agree to a tenth, each rounded to 1e-7."""
    first = enter(fixtures, method, options)
    rollouts = collected(first)
    expected = update(first, rollouts)

    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    second = enter(fixtures, method, options)
    if rollouts is None:
        batches = [permuted(batch, order) for batch in second.env.draw.batches()]
        second.env.draw.batches = lambda: iter(batches)  # type: ignore[method-assign]
    else:
        tensors = {name: t[order] for name, t in rollouts.tensors.items()}
        rollouts = Rollouts(tensors, rollouts.cond[order], rollouts.updates)
    actual = update(second, rollouts)
    for name in expected.losses:
        # A pass of Flow-GRPO has all steps of a sample's window beside each other
        before, after = (
            found.losses[name].view(-1, BATCH) if rollouts is None else found.losses[name].view(BATCH, -1).T
            for found in (expected, actual)
        )
        assert not torch.allclose(before[:, order], before, rtol=0.01)
        torch.testing.assert_close(after, before[:, order], rtol=1e-4, atol=0)
