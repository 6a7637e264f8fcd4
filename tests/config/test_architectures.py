"""The published architectures: parameter counts as published, and pipelines of their shape with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.api import ConfigError
from bench.config.architectures import architecture_named
from bench.config.load import load_settings
from bench.config.settings import Runtime, Train
from bench.families import family_of
from bench.models import flops
from bench.models.policy import PipelinePolicy
from bench.models.random_pipeline import build_random_pipeline

# Of the checkpoints on the hub, in millions: the transformers are known as 2B, 2.5B (with its table of positions, which
# is not trained) and 8.1B; the encoders are CLIP-L, OpenCLIP bigG's text tower and T5 v1.1 XXL's encoder.
PUBLISHED = {
    "stabilityai/stable-diffusion-3-medium-diffusers": 2028.3,
    "stabilityai/stable-diffusion-3.5-medium": 2243.2,
    "stabilityai/stable-diffusion-3.5-large": 8056.6,
}
OTHERS = ("black-forest-labs/FLUX.2-klein-base-4B", "Tongyi-MAI/Z-Image")
ENCODERS = {"text_encoder": 123.65, "text_encoder_2": 694.66, "text_encoder_3": 4762.31, "vae": 83.82}


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_numbers_make_the_published_models(model: str) -> None:
    pipeline = build_random_pipeline(model, "meta")
    assert millions(pipeline.transformer) == pytest.approx(PUBLISHED[model], abs=0.1)
    side = 384 if "3.5-medium" in model else 192
    assert pipeline.transformer.pos_embed.pos_embed.shape[1] == side**2
    for name, count in ENCODERS.items():
        assert millions(getattr(pipeline, name)) == pytest.approx(count, abs=0.01)


@pytest.mark.slow
def test_the_numbers_make_models_of_other_families_as_published() -> None:
    """klein is known as 4B, with 3,875M weights, its VAE has 84,046,115, and Z-Image as 6B, with 6.15B."""
    klein, z_image = (build_random_pipeline(name, "meta") for name in OTHERS)
    assert millions(klein.transformer) == pytest.approx(3875, abs=1)
    assert sum(p.numel() for p in klein.vae.parameters()) == 84_046_115
    assert millions(z_image.transformer) == pytest.approx(6150, abs=10)
    assert millions(z_image.vae) == pytest.approx(ENCODERS["vae"], abs=0.01)
    for pipeline in (klein, z_image):
        assert millions(pipeline.text_encoder) == pytest.approx(4022.5, abs=1)  # Qwen3-4B, its embedding tied


@pytest.mark.parametrize(
    ("preset", "model", "scale"), [("flux2-klein-lora", OTHERS[0], 4.0), ("z-image-lora", OTHERS[1], 5.0)]
)
def test_presets_of_other_families_train_and_judge_alike_on_their_own_targets(
    preset: str, model: str, scale: float
) -> None:
    experiment = load_settings(preset)
    family = family_of(architecture_named(model).pipeline)
    assert experiment.model == model and experiment.runtime.text_length == family.text_length
    for label in ("sft", "soar", "flowgrpo"):
        train = experiment.stages(label)[0].train
        assert train.adaptation == "lora" and train.lora_targets == family.lora_targets
    soar, flowgrpo = (experiment.stages(label)[0].config.guidance for label in ("soar", "flowgrpo"))
    assert soar == experiment.evaluation.guidance == scale and flowgrpo == 1 and not experiment.runtime.compile


def test_targets_that_are_asked_for_go_before_the_familys_own() -> None:
    asked = load_settings("z-image-lora", {"train.lora_targets": ["attention.to_q"]})
    assert asked.stages("sft")[0].train.lora_targets == ("attention.to_q",)


def test_the_shrunken_one_has_all_that_the_medium_one_has() -> None:
    pipeline = build_random_pipeline("shrunken")
    dual = [block.use_dual_attention for block in pipeline.transformer.transformer_blocks]
    assert dual == [True, True, False] and pipeline.vae.config.latent_channels == 16
    medium = architecture_named("stabilityai/stable-diffusion-3.5-medium").transformer
    assert set(architecture_named("shrunken").transformer) == set(medium)


def test_random_weights_are_the_same_for_a_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (build_random_pipeline("shrunken", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [p.transformer.proj_out.weight for p in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_texts_pictures_and_noise_levels_all_reach_the_velocity() -> None:
    policy = PipelinePolicy.load("shrunken", weights="random", device="cpu", runtime=Runtime(text_length=24))
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    v = policy.velocity(x, torch.tensor([0.5]), policy.encode(["a star"]))
    for other in (
        policy.velocity(-x, torch.tensor([0.5]), policy.encode(["a star"])),
        policy.velocity(x, torch.tensor([0.6]), policy.encode(["a star"])),
        policy.velocity(x, torch.tensor([0.5]), policy.encode(["a ring"])),
    ):
        assert (v - other).norm() > 1e-3 * v.norm()


def trainable(pipeline: Path, **train: object) -> PipelinePolicy:
    policy = PipelinePolicy.load(pipeline, device="cpu", runtime=Runtime(attention="math"))
    policy.prepare(Train(**train), 0)
    return policy


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_gradient_checkpointing_changes_neither_the_gradient_nor_the_cost(adaptation: str, tiny_pipeline: Path) -> None:
    found = []
    for again in (False, True):
        policy = trainable(tiny_pipeline, adaptation=adaptation, gradient_checkpointing=again)
        assert policy.transformer.is_gradient_checkpointing == again
        x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
        policy.velocity(x, torch.tensor([0.3, 0.8]), policy.encode(["a", "b"])).square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in policy.transformer.parameters() if p.grad is not None])
        found.append((gradient, policy.measure_flops()))
    assert torch.equal(found[0][0], found[1][0]) and found[0][0].norm() > 0
    assert found[0][1] == found[1][1]


@pytest.mark.slow
def test_flops_are_counted_alike_by_running_and_by_looking_at_shapes(tiny_pipeline: Path) -> None:
    policy = trainable(tiny_pipeline, adaptation="lora")
    arguments = (policy.family, policy.transformer, policy.latent_shape, policy.encode([""]))
    ran, looked = flops.count(*arguments, device="cpu"), flops.count(*arguments, device="meta")
    assert ran == looked == policy.measure_flops()
    assert ran.reference < ran.forward < ran.backward < ran.backward_through


def test_unknown_architectures_are_named(tiny_pipeline: Path) -> None:
    with pytest.raises(ConfigError, match=r"'shrunk': random weights need .*; did you mean 'shrunken'"):
        build_random_pipeline("shrunk")
    with pytest.raises(ConfigError, match="is no architecture that random weights are known for"):
        load_settings("smoke", {"model": str(tiny_pipeline), "weights": "random"})


@pytest.mark.parametrize(
    ("preset", "guidance"), [("sd35-medium", 1.0), ("sd35-medium-lora", 1.0), ("sd35-medium-papers", 4.5)]
)
def test_the_presets_judge_with_the_guidance_of_the_papers_and_one_text_length(preset: str, guidance: float) -> None:
    experiment = load_settings(preset)
    soar, flowgrpo = (experiment.stages(label)[0].config.guidance for label in ("soar", "flowgrpo"))
    assert (soar, experiment.evaluation.guidance, flowgrpo) == (4.5, 4.5, guidance)
    assert (experiment.runtime.resolution, experiment.runtime.text_length) == (512, 256)


@pytest.mark.parametrize("preset", ["sd35-medium", "sd35-medium-lora"])
def test_the_default_presets_give_equal_cost_and_fast_settings_of_its_authors(preset: str) -> None:
    experiment = load_settings(preset)
    assert experiment.budget.unit == "cost"
    config = experiment.stages("flowgrpo")[0].config
    assert (config.epsilon, config.beta, config.noise, config.noise_level) == (1e-5, 0, "cps", 0.8)
    assert (config.num_generations, config.window, config.scale_rewards) == (18, 3, "batch")
    assert {task.primary for task in experiment.tasks}.isdisjoint({task.reward for task in experiment.tasks})


def test_the_papers_preset_has_the_papers_settings() -> None:
    experiment = load_settings("sd35-medium-papers")
    sft, soar, flowgrpo = (experiment.stages(label)[0] for label in ("sft", "soar", "flowgrpo"))
    assert sft.train == soar.train and experiment.budget.text == "5000updates"
    assert (sft.train.batch_size, sft.train.learning_rate, sft.train.weight_decay) == (32, 2e-5, 1e-2)
    assert (sft.train.adaptation, flowgrpo.train.adaptation) == ("full", "lora")
    assert (soar.config.num_points, soar.config.rollout_steps) == (6, 40)
    config = flowgrpo.config
    assert (config.num_groups, config.num_generations, config.window, config.updates) == (48, 24, 9, 2)
    assert (config.noise, config.noise_level, config.epsilon, config.beta) == ("sde", 0.7, 1e-4, 0.004)
    assert (flowgrpo.train.learning_rate, flowgrpo.train.lora_rank, flowgrpo.train.lora_alpha) == (3e-4, 32, 64)
    kept = 0.5 ** (8 / 5000 / flowgrpo.train.ema_half_life)  # of the average, over 8 of the 5,000 updates
    assert kept == pytest.approx(0.9, abs=0.005)
