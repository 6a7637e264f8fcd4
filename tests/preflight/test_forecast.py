"""What `bench plan` computes for a model that is not here, held against the same measured on small ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bench.api import ConfigError, DataError, Needs
from bench.budget import Budget
from bench.config.load import load_settings
from bench.config.settings import Experiment, Runtime, Train
from bench.hub import is_model_here
from bench.models.policy import PipelinePolicy
from bench.preflight.forecast.activations import pass_bytes, run_pass
from bench.preflight.forecast.cards import Card, card_named
from bench.preflight.forecast.forecast import (
    EncodingForecast,
    ExperimentForecast,
    forecast_encodings,
    forecast_experiment,
)
from bench.preflight.forecast.memory import StageMemory, StageMemoryForecaster, scorer_bytes
from bench.preflight.forecast.plan import _measure_methods
from bench.preflight.forecast.render import render_forecast
from bench.preflight.forecast.shapes import ModelShapes
from bench.preflight.forecast.spending import LargestPass, forecast_spending
from bench.training.optimizer import Optimizer
from tests.support.cells import experiment

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
GIB = 2**30
LATENT, BATCH = (16, 8, 8), 4
SMALL = {
    "model": "shrunken", "runtime.resolution": 64, "runtime.text_length": 24, "train.batch_size": 8,
    "flowgrpo.num_groups": 2, "flowgrpo.num_generations": 4,
}  # fmt: skip


def shrunken(**overrides: object) -> Experiment:
    return load_settings("rehearsal", {**SMALL, **overrides})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ExperimentForecast:
    # one kind of training, so that its passes are weighed once
    planned = shrunken(budget="100updates", methods=["sft", "flowgrpo"], **{"flowgrpo.train.adaptation": "full"})
    return forecast_experiment(planned, tmp_path_factory.mktemp("results"))


@pytest.mark.slow
@pytest.mark.parametrize("held", ["float32", "bfloat16"])
def test_weights_weigh_what_the_loaded_ones_do(held: str) -> None:
    runtime = Runtime(resolution=64, text_length=24, denoiser_weights=held, frozen_weights=held)  # type: ignore[arg-type]
    policy = PipelinePolicy.load("shrunken", weights="random", device="cpu", runtime=runtime)
    shapes = ModelShapes.of(dataclasses.replace(shrunken(), runtime=runtime))
    for part in ("transformer", "vae", *ENCODERS):
        module = getattr(policy.pipeline, part)
        assert shapes.bytes_of(part) == sum(t.nbytes for t in (*module.parameters(), *module.buffers())), part
    assert shapes.latent == policy.latent_shape
    cond = policy.encode(["a star"])
    assert shapes.text_numbers == cond.embeds.numel() + cond.pooled.numel()


TRAINED = [
    Train(precision="bfloat16", gradient_checkpointing=True),
    Train(precision="bfloat16", adaptation="lora", lora_rank=4),
]


@pytest.mark.slow
@pytest.mark.parametrize("train", TRAINED, ids=["checkpointing", "lora"])
def test_passes_hold_the_tensors_that_a_real_pass_holds(train: Train) -> None:
    """The same bytes on every processor: at least what autograd keeps, at most what torch allocates, with scratch."""
    runtime = Runtime(resolution=64, text_length=24)
    shapes = ModelShapes.of(dataclasses.replace(shrunken(), runtime=runtime))
    policy = PipelinePolicy.load("shrunken", weights="random", device="cpu", precision=train.precision, runtime=runtime)
    policy.prepare(train, 0)
    for gradient in (True, False):
        computed = pass_bytes(shapes, train, BATCH, gradient=gradient, cuda=False)
        assert run_pass(policy, LATENT, BATCH, gradient=gradient) == computed
        kept, allocated = kept_and_allocated(policy, gradient)
        assert kept <= computed <= allocated, (kept, computed, allocated)


def kept_and_allocated(policy: PipelinePolicy, gradient: bool) -> tuple[int, int]:
    """Bytes that autograd keeps of a pass for the way back, weights apart; most bytes that torch allocates in one."""
    weights = {t.untyped_storage().data_ptr() for t in policy.transformer.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        run_pass(policy, LATENT, BATCH, gradient=gradient)
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())])
    return sum(kept.values()), int(live.max())


@pytest.mark.slow
def test_flops_and_trained_weights_are_the_models_own(tiny_pipeline: Path) -> None:
    train = Train(adaptation="lora")
    policy = PipelinePolicy.load(tiny_pipeline, device="cpu")
    parameters = policy.prepare(train, 0)
    count, passes = ModelShapes.of(experiment(tiny_pipeline)).trained_weights_and_flops(train)
    assert passes == policy.measure_flops()
    assert count == sum(p.numel() for p in parameters)
    optimizer = Optimizer(parameters, train)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step(optimizer.gradient_norm(), 0.0)
    moments = [t.nbytes for name, t in optimizer.tensors().items() if name.startswith("exp_avg")]
    assert sum(moments) == 8 * count


@pytest.mark.slow
def test_methods_spend_what_a_trial_of_them_spends(tiny_pipeline: Path) -> None:
    planned = experiment(tiny_pipeline, methods=["soar", "flowgrpo"])
    shapes = ModelShapes.of(planned)
    passes = shapes.trained_weights_and_flops(planned.train)[1]
    for label, (measured,) in _measure_methods(planned)[0][1].items():
        computed = forecast_spending(planned.stages(label)[0], shapes, passes)
        for unit in ("cost", "flops", "updates", "images"):
            assert computed.by_update[unit] == pytest.approx(measured[unit], rel=1e-9), (label, unit)


@pytest.mark.slow
def test_rollouts_weigh_what_the_method_keeps(found: ExperimentForecast) -> None:
    (stage,) = found.stages["flowgrpo"]
    c = stage.settings.config
    pictures, window = c.num_groups * c.num_generations, c.window
    # States and the next ones; v_u; the reference's
    tensors = 2 + (c.guidance != 1 and c.detach_unconditional) + (c.beta > 0)
    latents = tensors * pictures * window * 16 * 8 * 8 * 4
    small = pictures * (window * (4 + 8) + 4 + 8)  # log-probabilities and steps; advantages and order
    texts = pictures * ((77 + 24) * 48 + 40) * 4
    assert stage.spending.rollouts == latents + small + texts


@pytest.mark.slow
def test_folded_adapters_weigh_as_float32() -> None:
    lora = Train(adaptation="lora", precision="bfloat16")
    planned = shrunken(**{"train.adaptation": "lora", "runtime.denoiser_weights": "bfloat16"})
    shapes = ModelShapes.of(planned)
    memory = StageMemoryForecaster(planned, shapes).of_stage(lora, 1000, Needs(), rollouts=0, largest=LargestPass(4, 4))
    more = memory.total("the result's evaluation") - memory.total("evaluation")
    assert more == 2 * shapes.numbers_of("transformer")


@pytest.mark.slow
def test_scorers_weigh_on_the_card_that_they_share_with_training() -> None:
    """A ViT-L/14 is 1.59 GiB, whether one scorer or two see with it; a ViT-H/14 3.67."""

    def weighed(*scorers: str, cards: int = 1, **more: Any) -> tuple[float, tuple[str, ...]]:
        names = {"task.scorers": list(scorers), "task.primary": scorers[0], "task.reward": scorers[0]}
        size, unknown = scorer_bytes(shrunken(**{**names, **more}), cards)
        return size / GIB, unknown

    assert weighed("aesthetic", "clipscore", "jpeg") == (pytest.approx(1.59), ())
    assert weighed("aesthetic", "pickscore", "hpsv2") == (pytest.approx(1.59 + 2 * 3.67), ())
    assert weighed("jpeg", **{"task.reward": "0.5*aesthetic+0.5*pickscore"})[0] == pytest.approx(1.59 + 3.67)
    apart = {"scorers.clipscore.process": True}
    assert weighed("aesthetic", "clipscore", **apart)[0] == pytest.approx(2 * 1.59)
    assert weighed("aesthetic", "clipscore", **apart, **{"scorers.clipscore.device": "cuda:1"})[0] == pytest.approx(
        1.59
    )
    assert weighed("aesthetic", "hpsv2", **{"scorers.hpsv2.device": "cpu"})[0] == pytest.approx(1.59)
    assert weighed("aesthetic", "hpsv2", reward_server="http://127.0.0.1:1") == (0.0, ())
    local = {"scorers.hpsv2.threads": 2, "reward_server": "http://127.0.0.1:1"}
    assert weighed("aesthetic", "hpsv2", **local)[0] == pytest.approx(3.67)
    assert weighed("imagereward")[0] == 0 and weighed("imagereward", **{"scorers.imagereward.device": "cuda"})[0] > 1
    assert weighed("clipscore", **{"scorers.clipscore.device": "cuda:0", "device": "cuda:1"})[0] == 0
    for device, copies in (("cuda:1", 2), ("cuda:2", 0), ("auto", 1), ("cpu", 0)):
        assert weighed("clipscore", cards=2, **{"scorers.clipscore.device": device})[0] == pytest.approx(copies * 1.59)
    assert weighed("tests.support.worker_rewards:Network") == (0.0, ("network",))


def test_what_is_in_use_is_not_advised() -> None:
    planned = shrunken(**{"train.adaptation": "lora", "runtime.denoiser_weights": "bfloat16"})
    memory = StageMemory(
        {"denoiser": 5.0, "scorers": 4.0, "text encoders": 3.0, "VAE": 9.0}, {"evaluation": {"gradients": 1.0}}
    )
    assert memory.mends(planned.train, planned.runtime) == [
        "--scorers.NAME.device cpu, or that of a card which does not train, for those that only judge",
        "--runtime.t5 false",
    ]
    assert memory.mends(Train(), Runtime(park_encoders=True)) == [
        "--runtime.denoiser_weights bfloat16 (LoRA alone)",
        "--scorers.NAME.device cpu, or that of a card which does not train, for those that only judge",
        "--runtime.frozen_weights bfloat16, or --runtime.t5 false",
        "--train.adaptation lora",
    ]


def test_checkpointing_takes_time_and_costs_nothing(found: ExperimentForecast) -> None:
    (sft,) = found.stages["sft"]
    passes = sft.passes
    assert sft.settings.train.gradient_checkpointing
    assert sft.spending.by_update["flops"] == pytest.approx(8 * (passes.forward + passes.backward))
    assert sft.spending.computed == pytest.approx(8 * (2 * passes.forward + passes.backward))


def test_hours_are_flops_over_the_share_of_the_peak(found: ExperimentForecast) -> None:
    slow = Card("slow", 80, 1e-3, 1e-4)  # 1e9 FLOP/s in bfloat16
    (sft,) = found.plan_for(slow, 0.5).stages["sft"]
    (stage,) = found.stages["sft"]
    assert (sft.updates, sft.budget) == (100, Budget(100, "updates"))
    assert sft.total("seconds") == pytest.approx(100 * stage.spending.computed / 5e8)
    assert found.plan_for(slow, 0.25).stages["sft"][0].total("seconds") == pytest.approx(2 * sft.total("seconds"))


def test_what_does_not_fit_is_told_with_what_helps(found: ExperimentForecast) -> None:
    large, small = card_named("H100"), Card("small", 2 * found.most / 2**30 / 3, 100, 50)
    text = render_forecast(found, [large, small], 0.4)
    fits = next(line for line in text.splitlines() if line.startswith("H100 SXM"))
    assert "fits: at most" in fits and "does not" not in fits
    short = text[text.index("\nsmall") :]
    assert "does not fit" in short and "try " in short
    assert "--preset" not in short  # there is none with adapters for this model


def test_a_plan_fits_80_columns_and_names_the_preset_of_adapters(found: ExperimentForecast) -> None:
    """Of any number of methods, under names of any length."""
    labels = ["sft", "flowgrpo", "sft-resampled", "sft+soar+flowgrpo-at-another-rate", "continued", "dgpo", "awm"]
    stages = dict.fromkeys(labels, found.stages["sft"])
    medium = dataclasses.replace(found.experiment, model="stabilityai/stable-diffusion-3.5-medium")
    chains = tuple(dataclasses.replace(medium.methods[0], label=label) for label in labels)
    many = dataclasses.replace(
        found, stages=stages, experiment=dataclasses.replace(medium, methods=chains, budget=Budget(10, "updates"))
    )
    text = render_forecast(many, [card_named("H100"), Card("small", 2 * found.most / 2**30 / 3, 100, 50)], 0.4)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert text.count("memory of the card") > 1 and all(text.count(label) >= 2 for label in labels)
    assert "fewer than 50 updates: sft, flowgrpo, sft-resampled," in text
    assert "try --preset sd35-medium-lora, where all train adapters" in text[text.index("\nsmall") :]


@pytest.mark.parametrize(
    ("limit", "disk", "held"),
    [(0, 0, (3 * GIB, 5 * GIB)), (10 * GIB, 8 * GIB, (GIB, GIB, 0)), (6 * GIB, 6 * GIB, (GIB, GIB, 2 * GIB))],
)
def test_encodings_lie_on_disk_as_far_as_the_limit_goes(limit: float, disk: float, held: tuple[float, ...]) -> None:
    needed = EncodingForecast(texts=30, pictures=50, text_bytes=3 * GIB, picture_bytes=5 * GIB, limit=limit)
    assert needed.on_disk == disk
    assert tuple(needed.held().values()) == held


def test_a_run_is_planned_with_what_it_has_to_encode(tiny_pipeline: Path, found: ExperimentForecast) -> None:
    planned = experiment(tiny_pipeline, methods=["sft"], **{"task.candidates": 64, "task.train_prompts": 5})
    needed = forecast_encodings(planned, ModelShapes.of(planned), planned.tasks)
    # .35 of 64 pictures with their captions, 5 prompts, 6 + 2 in evaluation; 16 x 8 x 8 latents, mean and std
    assert (needed.texts, needed.pictures) == (23 + 5 + 6 + 2, 23)
    assert needed.text_bytes == 36 * (20 * 32 + 32) * 4
    assert needed.picture_bytes == 23 * 2 * 16 * 8 * 8 * 4
    assert needed.limit == 50 * GIB
    assert found.disk["cache of latents and texts"] == 0  # random weights are not worth a cache


@pytest.mark.slow
def test_cards_that_share_hold_a_part_and_take_a_part_of_the_time(found: ExperimentForecast, tmp_path: Path) -> None:
    """By hand: three quarters of the weights, gradients and moments go, what passes bring together comes."""
    planned = dataclasses.replace(found.experiment, shard=True)
    shared = forecast_experiment(planned, tmp_path, cards=4)
    (whole,), (part,) = found.stages["sft"], shared.stages["sft"]
    for name, size in whole.memory.resident.items():
        assert part.memory.resident[name] == (size / 4 if name in ("denoiser", "base, for drift") else size)
    before, after = (stage.memory.phases["training passes"] for stage in (whole, part))
    blocks = ModelShapes.of(planned).pipeline.transformer.transformer_blocks
    largest = max(sum(p.numel() for p in block.parameters()) for block in blocks)
    assert after.pop("blocks, put together") == 6 * 4 * largest
    alike = ("rollouts", "activations")
    assert after == {name: size if name in alike else size / 4 for name, size in before.items()}
    alone, together = (
        each.plan_for(card_named("l4"), 0.4).stages["sft"][0].total("seconds") for each in (found, shared)
    )
    assert alone == pytest.approx(4 * together)
    with pytest.raises(ConfigError, match="over how many by --cards N"):
        forecast_experiment(planned, tmp_path)


def test_one_sentence_where_nothing_can_be_known() -> None:
    assert not is_model_here("stabilityai/stable-diffusion-3.5-medium")
    with pytest.raises(ConfigError, match="--gpu: no card 'h10' is known; did you mean 'h100'"):
        card_named("h10")
    with pytest.raises(DataError, match="bench fetch nobody/nothing"):
        ModelShapes.of(dataclasses.replace(shrunken(), weights="stored", model="nobody/nothing"))


def test_guidance_that_differs_between_training_and_evaluation_is_told(found: ExperimentForecast) -> None:
    def told(guidance: float) -> list[str]:
        changed = dataclasses.replace(found.experiment.evaluation, guidance=guidance)
        judged = dataclasses.replace(found, experiment=dataclasses.replace(found.experiment, evaluation=changed))
        return render_forecast(judged, [card_named("H100")], 0.4).splitlines()

    assert not any("guidance scale" in line for line in told(1.0))  # which the preset trains Flow-GRPO with
    assert "guidance scale: 3 in evaluation, another one in training: flowgrpo 1" in told(3.0)
