"""Evaluation: distances by hand, and noise keyed by prompt alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from bench.models.policy import PipelinePolicy
from bench.scoring.loading import load_scorers
from bench.training.context import TaskContext
from bench.training.evaluate import Evaluator, mean_pairwise_distance
from tests.support.cells import experiment, scorers, world


def test_mean_pairwise_distance_by_hand():
    same = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    right_angle = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert mean_pairwise_distance(same) == 0
    assert mean_pairwise_distance(right_angle) == 1
    assert mean_pairwise_distance(np.concatenate([same, right_angle])) == 0.5
    three = np.array([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])  # pairs: 1, 1, 2
    assert mean_pairwise_distance(three) == pytest.approx(4 / 3)


@pytest.fixture
def judge(tiny_pipeline):
    policy = PipelinePolicy.load(tiny_pipeline)

    def build(**changes):
        e = experiment(tiny_pipeline)
        settings = dataclasses.replace(e.evaluation, **changes)
        ready = {name: s for name, s in scorers(e).items() if name in e.tasks[0].scorers}
        return Evaluator(TaskContext(world(tiny_pipeline), e.tasks[0], policy, ready), settings), policy

    return build


@pytest.mark.slow
def test_batches_do_not_change_what_is_sampled(judge):
    evaluator, policy = judge(batch_size=128)
    small, _ = judge(batch_size=4)
    a, b = (x.judge(policy, 0, final=True).frame for x in (evaluator, small))
    assert np.allclose(a["scenes-aesthetic"], b["scenes-aesthetic"], atol=0.05)
    assert a["prompt_index"].tolist() == b["prompt_index"].tolist()


@pytest.mark.slow
def test_a_milestone_is_the_beginning_of_the_end(judge):
    evaluator, policy = judge()
    part, whole = evaluator.judge(policy, 0, final=False).frame, evaluator.judge(policy, 0, final=True).frame
    assert len(part["split"]) == 4 and len(whole["split"]) == 6 + 2
    assert np.allclose(part["scenes-aesthetic"], whole["scenes-aesthetic"][:4], atol=0.05)
    assert set(whole["split"]) == {"report", "held_out"}


@pytest.mark.slow
def test_scores_summarise_the_reported_prompts_only(judge):
    evaluator, policy = judge()
    judgement = evaluator.judge(policy, 0, final=True)
    reported = judgement.frame["split"] == "report"
    assert judgement.scores["scenes-aesthetic"]["n"] == 6
    mean = judgement.frame["scenes-aesthetic"][reported].astype(np.float64).mean()
    assert judgement.scores["scenes-aesthetic"]["mean"] == pytest.approx(mean)
    # alignment has no text prompts, so the text scorer applies to nothing and claims nothing
    assert "scenes-ocr" not in judgement.scores
    assert np.isnan(judgement.frame["scenes-ocr"]).all()


@pytest.mark.slow
def test_the_grid_has_every_pair_of_settings(judge):
    evaluator, policy = judge(grid_guidance=(1.0, 2.0), grid_steps=(2, 3))
    frame = evaluator.grid(policy, 7)
    pairs = set(zip(frame["guidance"].tolist(), frame["steps"].tolist(), strict=True))
    assert pairs == {(1.0, 2), (1.0, 3), (2.0, 2), (2.0, 3)}
    assert len(frame["split"]) == 4 * 2


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 5])
def test_the_grid_has_the_rows_of_the_final_evaluation(judge, batch_size):
    """Where its settings are the grid's; from an evaluator that has not made it too, as after a resume."""
    settings = {"grid_guidance": (2.0,), "grid_steps": (2,), "guidance": 2.0, "steps": 2, "batch_size": batch_size}
    evaluator, policy = judge(**settings)
    final = evaluator.judge(policy, 7, final=True).frame
    again, _ = judge(**settings)
    again.recall(7, final)
    for grid in (evaluator.grid(policy, 7), again.grid(policy, 7)):
        assert grid.keys() == final.keys()
        for name, values in grid.items():
            np.testing.assert_array_equal(values, final[name][: len(values)], err_msg=name)
        assert grid["prompt_index"].tolist() == final["prompt_index"].tolist()[:2]


@pytest.mark.slow
def test_a_network_that_two_scorers_share_sees_a_picture_once(tiny_pipeline, monkeypatch):
    e = experiment(tiny_pipeline)
    pair = load_scorers({"scenes-clip", "scenes-aesthetic-head"})
    seen = []
    run = CLIPModel.get_image_features

    def counted(self, pixel_values, **options):
        seen.append(len(pixel_values))
        return run(self, pixel_values=pixel_values, **options)

    monkeypatch.setattr(CLIPModel, "get_image_features", counted)
    task = dataclasses.replace(e.tasks[0], scorers=tuple(pair), primary="scenes-clip")
    policy = PipelinePolicy.load(tiny_pipeline)
    evaluator = Evaluator(TaskContext(world(tiny_pipeline), task, policy, pair), e.evaluation)
    frame = evaluator.judge(policy, 0, final=False).frame
    assert sum(seen) == len(frame["split"])
    seen.clear()
    alone = pair["scenes-clip"]
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    for _ in range(2):  # outside of an evaluation nothing is kept: what a reward costs is measured there
        alone(images, ["a red circle"] * 2, [{}] * 2)
    assert sum(seen) == 4


@pytest.mark.slow
def test_drift_takes_no_larger_passes_than_evaluation_may(judge):
    whole, policy = judge(drift_states=40, batch_size=128)
    parts, _ = judge(drift_states=40, batch_size=4)
    with torch.no_grad():
        policy.transformer.proj_out.weight.mul_(1.1)
    sizes: list[int] = []
    hook = policy.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    found = parts.judge(policy, 0, final=False).drift
    hook.remove()
    assert max(sizes) == 2 * 4  # both branches of guidance in one
    assert found == pytest.approx(whole.judge(policy, 0, final=False).drift, rel=1e-3)
    assert found["velocity"] > 1e-3 and found["path_kl"] > 1e-3
