"""The ledger equals an independent count of what ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.api import BudgetExhausted
from bench.budget import Budget, Ledger
from bench.models.autoencoder import pictures_at_once
from bench.models.policy import PipelinePolicy
from bench.preflight.conformance.observers import count_passes
from bench.training.context import TaskContext
from bench.training.curation import curated_data
from bench.training.stage import Stage, StageStart
from tests.support.cells import experiment, scorers, world


def enter(pipeline: Path, label: str, budget: str, **overrides) -> tuple[Stage, Ledger, float]:
    e = experiment(pipeline, methods=[label], **overrides)
    ledger, policy = Ledger(), PipelinePolicy.load(pipeline)
    unit = policy.measure_flops().forward
    context = TaskContext(world(pipeline), e.tasks[0], policy, scorers(e))
    stage = Stage.enter(StageStart(e.stages(label)[0], Budget.parse(budget)), context, ledger, unit)
    return stage, ledger, unit


@pytest.mark.slow
@pytest.mark.parametrize("label", ["sft", "soar", "flowgrpo"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_flops_of_a_step_equal_an_independent_count(tiny_pipeline, label, adaptation):
    stage, ledger, unit = enter(tiny_pipeline, label, "100k", **{"train.adaptation": adaptation})
    stage.advance()  # texts are encoded once, outside of what is charged
    before = ledger.flops
    with count_passes(stage.policy) as count:
        while stage.limit.left and ledger.updates < 4:
            stage.advance()
    assert ledger.flops - before == pytest.approx(count.flops, rel=1e-9)
    assert ledger.cost == pytest.approx(ledger.flops / unit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "per_sample"),
    [("sft", 3.0), ("soar", 1 + 2 + 1 + 6 * 3)],
)
def test_passes_per_sample_are_those_of_the_algorithm(tiny_pipeline, label, per_sample):
    stage, ledger, _ = enter(tiny_pipeline, label, "100k", **({"soar.num_points": 6} if label == "soar" else {}))
    stage.advance()
    # A backward pass of all weights takes nearly two forward passes: the first layer's input needs no gradient
    forward = {"sft": 1, "soar": 8}[label] * 8
    assert ledger.forward == forward
    assert ledger.cost == pytest.approx(8 * per_sample, rel=0.03)
    assert (ledger.samples, ledger.updates, ledger.reward_calls) == (8, 1, 0)
    assert ledger.curation_reward_calls == 64


@pytest.mark.slow
def test_what_the_data_takes_once_stands_beside_the_cost(tiny_pipeline):
    chosen = {"task.select": "scenes-clip"}  # which has a network, whose passes count
    stage, ledger, unit = enter(tiny_pipeline, "sft", "100k", **chosen)
    e = experiment(tiny_pipeline, methods=["sft"], **chosen)
    select = scorers(e)[e.tasks[0].select]
    pictures = world(tiny_pipeline).candidates(e.tasks[0].categories, 1)
    select.measure(pictures.images[0], pictures.prompts[0].text, pictures.prompts[0].metadata)
    assert select.flops > 0
    assert ledger.filter_cost == pytest.approx(64 * select.flops / unit)
    policy = stage.policy
    chunk = pictures_at_once(policy.family, policy.latent_shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        policy.encode_pictures(pictures.images[:1])
    kept = len(curated_data(world(tiny_pipeline), e.tasks[0], policy, select))
    assert ledger.encoding_cost == pytest.approx(kept * counter.get_total_flops() / chunk / unit)
    assert ledger.cost == 0 and ledger.facts()["filter_cost"] == ledger.filter_cost


@pytest.mark.slow
def test_rl_counts_pictures_and_scores(tiny_pipeline):
    stage, ledger, _ = enter(tiny_pipeline, "flowgrpo", "100k")
    stage.advance()
    assert ledger.images == ledger.reward_calls == 2 * 4
    assert ledger.decode_cost > 0
    assert ledger.samples == ledger.curation_reward_calls == 0


@pytest.mark.slow
@pytest.mark.parametrize("label", ["sft", "soar", "flowgrpo"])
@pytest.mark.parametrize("budget", ["777", "5updates", "1.3e9flops", "50images"])
def test_no_budget_is_exceeded(tiny_pipeline, label, budget):
    stage, ledger, _ = enter(tiny_pipeline, label, budget)
    try:
        while stage.advance() is not None:
            pass
    except BudgetExhausted:
        stage.abandon()
    limit = Budget.parse(budget)
    assert 0 < ledger.spent(limit.unit) <= limit.amount * (1 + 1e-9)
    assert all(p.grad is None for p in stage.policy.transformer.parameters())


@pytest.mark.slow
def test_evaluation_is_free(tiny_pipeline):
    stage, ledger, _ = enter(tiny_pipeline, "sft", "1k")
    stage.advance()
    before = ledger.state_dict()
    stage.policy.sample(torch.randn(2, 16, 8, 8), stage.policy.encode(["a", "b"]), steps=2, guidance=2.0)
    assert ledger.state_dict() == before
