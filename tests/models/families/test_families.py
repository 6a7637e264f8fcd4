"""Every family: against diffusers' own pipeline, through the real environment, and in what `plan` reads."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import ConfigError, DataError
from bench.budget import Budget, Ledger
from bench.config.settings import Runtime, Train
from bench.families import families, family_in
from bench.models.policy import PipelinePolicy
from bench.preflight.conformance.observers import count_passes
from bench.preflight.forecast.activations import pass_bytes, run_pass
from bench.preflight.forecast.shapes import ModelShapes
from bench.training.context import TaskContext
from bench.training.stage import Stage, StageStart
from tests.models.families import conformance
from tests.models.families.conformance import CONTROL, CONTROLS, NAMES, SCALES, THEIRS, TOLERANCE, load
from tests.support import tiny_families
from tests.support.cells import experiment, scorers, world
from tests.support.tiny_families import SIDE, write, write_family

pytestmark = pytest.mark.slow  # each writes or loads a model

Folders = Callable[[str], Path]
GUIDED = SCALES[-1]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The tiny pipeline of a family, written once."""
    found: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in found:
            found[name] = write_family(name, tmp_path_factory.mktemp("families") / name)
        return found[name]

    return folder


every_family = pytest.mark.parametrize("name", NAMES)


def states(policy: PipelinePolicy) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """x (2, C, h, w), sigma (2,) and conditioning of texts of different lengths."""
    x = conformance.noise_for(policy)
    return x, torch.tensor([0.3, 0.9]), policy.encode(conformance.PROMPTS)


# diffusers' own pipeline


@every_family
def test_three_steps_are_those_of_diffusers_own_pipeline(name: str, folders: Folders) -> None:
    found = conformance.measured(name, folders(name))
    for scale in SCALES:
        assert found[f"{scale:g}"] <= TOLERANCE, found
    for control in CONTROLS:
        assert found[control] >= CONTROL, found


def test_the_page_on_models_is_as_measured(tmp_path: Path) -> None:
    """All but the digits, and those of conformance up to a factor of ten: they differ between machines."""
    text = conformance.DOCUMENT.read_text(encoding="utf-8")
    digits = re.compile(r"[\d.]+(e-?\d+)?")
    found = {name: dict.fromkeys((*(f"{s:g}" for s in SCALES), *CONTROLS), TOLERANCE) for name in NAMES}
    mend = "write it anew: python -m tests.models.families"
    assert digits.sub("#", text) == digits.sub("#", conformance.page(found)), mend
    assert text.startswith(conformance.page(found).split("## Conformance")[0]), mend
    rows = [line.split(" | ") for line in text.split("## Conformance")[1].splitlines() if line.startswith("| ")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == list(NAMES)
    assert all(float(value) <= TOLERANCE for row in rows for value in row[1:3])


@every_family
def test_pictures_are_those_that_the_pipeline_decodes(name: str, folders: Folders, monkeypatch: Any) -> None:
    policy, pipeline = load(folders(name)), conformance.pipeline_of(folders(name))
    monkeypatch.setitem(conformance.SHARED, "output_type", "np")
    monkeypatch.setattr(conformance, "unpack", lambda pictures, *_: pictures)
    scheduled = conformance.ours(policy, GUIDED)
    if name == "flux2-klein":  # the adapter turns latents back; here they stay pictures
        shared = conformance.SHARED
        theirs = pipeline(
            prompt=conformance.PROMPTS, latents=conformance.noise_for(policy), guidance_scale=GUIDED, **shared
        ).images
    else:
        theirs = THEIRS[name](pipeline, conformance.noise_for(policy), GUIDED)
    ours = policy.decode(scheduled)
    assert ours.shape == (2, SIDE, SIDE, 3) and ours.std() > 1
    off = np.abs(ours.astype(int) - (np.asarray(theirs) * 255).round().astype(int))
    assert off.max() <= 1 and (off > 0).mean() < 0.01  # rounded from floats that differ by the tolerance


@every_family
def test_pictures_encode_to_what_decodes_to_their_reconstruction(name: str, folders: Folders) -> None:
    """Shift and scale of encoding are the inverse of those of decoding, for pictures as the pipeline reads them."""
    policy, pipeline = load(folders(name)), conformance.pipeline_of(folders(name))
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    mean, std = policy.encode_pictures(images)
    assert mean.shape == std.shape == (2, *policy.latent_shape)
    assert (std > 0).all() or (name == "sana" and not std.any())
    x = pipeline.image_processor.preprocess([Image.fromarray(image) for image in images])
    with torch.no_grad():
        x = x.unsqueeze(2) if name == "qwen-image" else x
        encoded = pipeline.vae.encode(x)
        latent = encoded.latent if name == "sana" else encoded.latent_dist.mode()
        decoded = pipeline.vae.decode(latent, return_dict=False)[0]
    decoded = decoded[:, :, 0] if name == "qwen-image" else decoded
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(policy.decode(mean).astype(int) - expected).max() <= 1


@every_family
def test_adapters_that_are_saved_load_in_diffusers_with_the_same_output(
    name: str, folders: Folders, tmp_path: Path
) -> None:
    policy = load(folders(name))
    base = conformance.ours(policy, 1.0)
    targets = policy.family.lora_targets
    for parameter in policy.prepare(Train(adaptation="lora", lora_rank=2, lora_targets=targets), seed=3):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(5))
    policy.merge()
    assert policy.save_lora(tmp_path / "lora")
    pipeline = conformance.pipeline_of(folders(name))
    pipeline.load_lora_weights(tmp_path / "lora")
    theirs = THEIRS[name](pipeline, conformance.noise_for(policy), 1.0)
    ours = conformance.ours(policy, 1.0)
    assert conformance.difference(ours, theirs) <= 3e-5  # once folded into the weights, once beside them
    assert conformance.difference(ours, base) > CONTROL


@every_family
def test_weights_that_are_saved_load_as_diffusers_own(name: str, folders: Folders, tmp_path: Path) -> None:
    policy = load(folders(name))
    policy.save(tmp_path / "model")
    again = type(policy.transformer).from_pretrained(tmp_path / "model", use_safetensors=True)
    x, sigma, cond = states(policy)
    with torch.no_grad():
        assert torch.equal(policy.family.velocity(again, x, sigma, cond), policy.velocity(x, sigma, cond))


# Texts, precision, passes


@every_family
def test_a_text_has_the_same_bits_in_any_company(name: str, folders: Folders) -> None:
    texts = ["a star", "", "two blue rings", "a star"]
    together, alone = load(folders(name)).encode(texts), load(folders(name))
    for row, text in enumerate(texts):
        one, many = alone.encode([text]), together[row : row + 1]
        assert all(torch.equal(one.named()[key], tensor) for key, tensor in many.named().items())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sd3"])  # whose T5 may be absent: test_policy.py
def test_a_text_too_long_is_refused_and_not_cut(name: str, folders: Folders) -> None:
    with pytest.raises(DataError, match=r"tokens, but the text encoders read \d+: shorten it, or raise --runtime"):
        load(folders(name)).encode(["a red circle " * 200])


@every_family
def test_texts_of_other_lengths_in_a_batch_change_nothing(name: str, folders: Folders) -> None:
    policy = load(folders(name))
    x, sigma, cond = states(policy)
    longer = policy.encode([*conformance.PROMPTS, "two small blue rings and one big star"])
    with torch.no_grad():
        alone = policy.velocity(x, sigma, cond)
        beside = policy.velocity(torch.cat([x, x[:1]]), torch.cat([sigma, sigma[:1]]), longer)[:2]
    torch.testing.assert_close(beside, alone, rtol=0, atol=TOLERANCE)
    parts = type(cond).cat([cond, policy.null(cond), longer[2:]])
    assert len(parts) == 5 and torch.equal(parts[:2].embeds, cond.embeds)


@every_family
def test_weights_held_in_bfloat16_take_adapters(name: str, folders: Folders) -> None:
    full = load(folders(name))
    policy = PipelinePolicy.load(
        folders(name), device="cpu", precision="bfloat16",
        runtime=Runtime(resolution=SIDE, denoiser_weights="bfloat16", frozen_weights="bfloat16"),
    )  # fmt: skip
    x, sigma, cond = states(full)
    trained = policy.prepare(Train(adaptation="lora", lora_rank=2, lora_targets=policy.family.lora_targets), 0)
    v = policy.velocity(x, sigma, cond)
    v.square().mean().backward()
    assert v.dtype == torch.float32 and sum(p.grad is not None for p in trained) > len(trained) / 2
    with torch.no_grad():
        exact = full.velocity(x, sigma, cond)
    assert 0 < (v - exact).norm() / exact.norm() < 0.05  # bfloat16 rounds to 2^-9, layer after layer
    assert np.isfinite(policy.decode(x)).all() and policy.encode(["a star"]).embeds.isfinite().all()


@every_family
def test_checkpointing_gives_the_same_gradient(name: str, folders: Folders) -> None:
    found = []
    for again in (False, True):
        policy = load(folders(name))
        trained = policy.prepare(Train(gradient_checkpointing=again), 0)
        x, sigma, cond = states(policy)
        policy.velocity(x, sigma, cond).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert found[0].norm() > 0


# The environment, and what plan reads


def small(folder: Path, label: str, **more: Any) -> Any:
    """An experiment of one method on a tiny pipeline, by LoRA."""
    grpo = {"num_groups": 2, "num_generations": 2, "updates": 2, "sampling_steps": 3, "window": 1}
    settings = {f"flowgrpo.{key}": value for key, value in grpo.items()} if label == "flowgrpo" else {}
    return experiment(
        folder, methods=[label],
        **{"runtime.resolution": SIDE, "train.adaptation": "lora", "train.lora_rank": 2, "train.batch_size": 4,
           "task.candidates": 8, "task.top_share": 1.0, **settings, **more},
    )  # fmt: skip


@pytest.mark.parametrize("label", ["sft", "soar", "flowgrpo"])
@every_family
def test_methods_take_two_steps_through_the_real_environment(name: str, label: str, folders: Folders) -> None:
    e = small(folders(name), label)
    ledger, policy = Ledger(), PipelinePolicy.of(e, world(folders(name)))
    unit = policy.measure_flops().forward
    context = TaskContext(world(folders(name)), e.tasks[0], policy, scorers(e))
    stage = Stage.enter(StageStart(e.stages(label)[0], Budget.parse("1000k")), context, ledger, unit)
    assert stage.env.model.shift == policy.shift == policy.family.shift(policy.latent_shape)
    before = [p.detach().clone() for p in stage.env.optimizer.parameters]
    with count_passes(policy) as count:
        logged = [stage.advance() for _ in range(2)]
    assert all(one is not None and np.isfinite(one["loss"]) for one in logged) and ledger.updates == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, stage.env.optimizer.parameters, strict=True))
    if label == "flowgrpo":
        assert logged[0] is not None and logged[0]["ratio"] == pytest.approx(1, abs=1e-5)
        kept, state = stage.tensors(), stage.state_dict()
        cond: Any = stage.env.rollouts.cond if stage.env.rollouts else None
        stage.load({key: t.clone() for key, t in kept.items()}, state)
        again: Any = stage.env.rollouts.cond if stage.env.rollouts else None
        assert all(torch.equal(again.named()[key], t) for key, t in cond.named().items())
    spent = ledger.flops if not policy.family.ragged else ledger.flops * 1.001
    assert count.flops <= spent  # a ragged text is charged as the longest


@every_family
def test_plan_reads_the_flops_and_the_memory_that_are_measured(name: str, folders: Folders) -> None:
    e = small(folders(name), "sft")
    train = e.stages("sft")[0].train
    shapes, policy = ModelShapes.of(e), PipelinePolicy.of(e, world(folders(name)))
    trained = policy.prepare(train, 0)
    assert shapes.trained_weights_and_flops(train) == (sum(p.numel() for p in trained), policy.measure_flops())
    assert shapes.latent == policy.latent_shape and shapes.shift == policy.shift
    for gradient in (True, False):  # each by a model of its own: tables of positions are made in its first pass
        policy = PipelinePolicy.of(e, world(folders(name)))
        policy.prepare(train, 0)
        computed = pass_bytes(shapes, train, 2, gradient=gradient, cuda=False)
        assert computed == run_pass(policy, policy.latent_shape, 2, gradient=gradient)


# What is refused


def test_the_list_says_what_each_family_needs_and_loads_no_model_library() -> None:
    program = (
        "import sys; from bench.cli.main import main\n"
        "assert main(['list', 'models']) == main(['list', 'qwen-image']) == 0\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for family in families():
        for told in (family.pipeline, f"guidance: {family.guidance}", f"schedule: {family.schedule}"):
            assert told in done.stdout
        assert f"LoRA targets: {', '.join(family.lora_targets)}" in done.stdout
    assert "model family qwen-image" in done.stdout and "arXiv 2508.02324" in done.stdout


@pytest.mark.parametrize("runtime", [{"compile": True}, {"attention": "math"}, {"t5": False}])
def test_what_was_tried_with_sd3_alone_is_refused_by_name(runtime: dict[str, Any], folders: Folders) -> None:
    with pytest.raises(ConfigError, match=rf"runtime\.{next(iter(runtime))} .*not there for z-image \(ZImagePipeline"):
        load(folders("z-image"), **runtime)


def test_weights_of_other_families_are_not_shared_out(folders: Folders) -> None:
    e = dataclasses.replace(small(folders("z-image"), "sft", **{"train.adaptation": "full"}), shard=True)
    for load_it in (lambda: ModelShapes.of(e), lambda: PipelinePolicy.of(e, world(folders("z-image")))):
        with pytest.raises(ConfigError, match="--shard true: not there for z-image"):
            load_it()


def test_guidance_that_is_no_input_is_refused_and_one_that_is_counts(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no guidance as an input"):
        load(folders("auraflow"), embedded_guidance=2.0)
    policy, other = load(folders("flux1")), load(folders("flux1"), embedded_guidance=1.0)
    x, sigma, cond = states(policy)
    with torch.no_grad():
        assert conformance.difference(policy.velocity(x, sigma, cond), other.velocity(x, sigma, cond)) > CONTROL
    schnell = load(write(tiny_families.flux1(guidance_embeds=False), tmp_path))
    with torch.no_grad():
        assert schnell.velocity(*states(schnell)).shape == x.shape
    with pytest.raises(ConfigError, match="takes no guidance as an input"):
        load(tmp_path, embedded_guidance=2.0)


def test_an_embedded_guidance_is_recorded_where_it_is_asked_for_alone(folders: Folders) -> None:
    """So cells that were recorded before there was the setting compare with those of today."""
    plain, asked = (small(folders("flux1"), "sft", **more) for more in ({}, {"runtime.embedded_guidance": 2.0}))
    task = plain.tasks[0].name
    assert "embedded_guidance" not in plain.cell_config(task, "sft")["runtime"] | plain.shared_config["runtime"]
    assert asked.cell_config(task, "sft")["runtime"]["embedded_guidance"] == 2.0
    assert asked.config_hash != plain.config_hash


def test_a_distilled_model_has_no_unconditional_branch(tmp_path: Path) -> None:
    folder = write(tiny_families.flux2(is_distilled=True), tmp_path)
    policy = load(folder)
    x, sigma, cond = states(policy)
    with torch.no_grad():
        assert torch.equal(policy.guided_velocity(x, sigma, cond, 1.0), policy.velocity(x, sigma, cond))
    with pytest.raises(ConfigError, match="distilled and has no unconditional branch"):
        policy.guided_velocity(x, sigma, cond, 2.0)
    with pytest.raises(ConfigError, match=r"guidance scale 3\.0: this Flux2KleinPipeline is distilled"):
        PipelinePolicy.of(small(folder, "sft"), world(folder))
    alone = {"evaluation.guidance": 1.0, "evaluation.grid_guidance": [1.0]}
    assert PipelinePolicy.of(small(folder, "sft", **alone), world(folder)).family.name == "flux2-klein"


def test_a_schedule_that_is_no_plain_flow_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_families.auraflow()
    pipeline.scheduler.register_to_config(use_karras_sigmas=True)
    with pytest.raises(ConfigError, match="use_karras_sigmas: expected a plain shifted schedule"):
        load(write(pipeline, tmp_path / "karras"))
    pipeline = tiny_families.sana()
    pipeline.scheduler.register_to_config(prediction_type="epsilon")
    with pytest.raises(ConfigError, match="prediction_type epsilon: expected flow_prediction"):
        load(write(pipeline, tmp_path / "epsilon"))


def test_adapters_for_modules_that_are_not_there_are_refused(folders: Folders) -> None:
    policy = load(folders("z-image"))
    with pytest.raises(ConfigError, match=r"ends with attn\.to_q: say --train\.lora_targets attention\.to_q,attention"):
        policy.prepare(Train(adaptation="lora", lora_targets=("attention.to_q", "attn.to_q")), 0)


@every_family
def test_sizes_are_read_from_configurations_as_the_loaded_model_takes_them(name: str, folders: Folders) -> None:
    from bench.datasets.pictures.model_limits import CaptionLimits, bucket_grid, model_resolution

    policy, folder = load(folders(name)), folders(name)
    sides = policy.family.sides(policy.transformer.config, policy.pipeline.vae.config)
    assert model_resolution(folder) == sides.native and bucket_grid(folder).unit == sides.unit
    assert policy.latent_of((2 * sides.unit, sides.unit))[2] == 2 * policy.latent_of((sides.unit, sides.unit))[1]
    with pytest.raises(ConfigError, match=f"expected a multiple of {sides.unit}"):
        policy.latent_of((sides.unit + 1, sides.unit))
    limits = CaptionLimits(folder)
    assert family_in(folder).name == name
    assert limits.faults(["a star"]) == [None]
    (fault,) = limits.faults(["a red circle " * 200])
    assert fault is not None and fault.kind == "caption too long"
