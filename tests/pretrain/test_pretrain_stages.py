"""Every stage on a shrunken size for a few steps; a resumed run equals an uninterrupted one; the export loads."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from torch import nn

from bench.datasets.scenes.manifest import check_manifest
from bench.datasets.scenes.proxies import OCR_CLASSES, AestheticHead, ProxyClip, load_ocr
from pretrain import aesthetic, clip, encode, export, further, ocr, preferences, transformer, vae
from pretrain.agreement import auc
from pretrain.data import TrainingPictures, to_images, to_tensor
from pretrain.loop import (
    PretrainingLoop,
    TrainingPlan,
    TrainingStep,
    averaged_weights,
    checkpoint_progress,
    keyed_generator,
)
from pretrain.muon import Muon, orthogonalise, split_parameters
from pretrain.tokenizer import build_tokenizer

TINY = TrainingPlan(samples=16, batch=8, lr=1e-3, warmup=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which every stage has run for two steps on 48 pictures, and its export."""
    folder = tmp_path_factory.mktemp("pretrain")
    torch.manual_seed(0)
    pictures = TrainingPictures(folder, 48, chunk=24).open()
    words = build_tokenizer()
    assert vae.train_whole(folder, folder, TINY, pictures, vae.build_vae())
    assert vae.train_decoder(folder, folder, TINY, pictures, vae.load_vae(folder, vae.build_vae()))
    wear = vae.Wear(vae.load_vae(folder, vae.build_vae()))
    assert clip.train_clip(folder, folder, TINY, pictures, clip.Towers(words), words, wear)
    assert ocr.train_ocr(folder, folder, TINY, pictures, ocr.build_ocr(), wear)
    aesthetic.fit_aesthetic_head(folder, folder, pictures, steps=3, others=20)
    encode.encode_training_set(folder, pictures)
    assert transformer.train_transformer(folder, folder, TINY)
    export.export_assets(folder, folder / "assets")
    return folder


@pytest.mark.slow
def test_wear_changes_every_fourth_picture_and_no_other(work):
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    before = images.copy()
    worn = vae.Wear(vae.load_vae(work, vae.build_vae()))(images, torch.Generator().manual_seed(0))
    assert (images == before).all()
    assert [bool((worn[k] != images[k]).any()) for k in range(6)] == [True, False, False, False, True, False]


def test_export_is_a_pipeline_that_samples(work):
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        work / "assets" / "pipeline", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        ["a red circle", "two stars"], num_inference_steps=2, guidance_scale=2.0, height=64, width=64,
        output_type="np", max_sequence_length=0,
    ).images  # fmt: skip
    assert made.shape == (2, 64, 64, 3)
    assert pipeline.vae.config.scaling_factor == pytest.approx(encode.latent_scaling(work)["scaling_factor"])


def test_export_holds_the_scorers_in_the_format_that_the_rewards_read(work):
    assets = work / "assets"
    check_manifest(assets / "clip")
    towers = clip.load_clip(work, clip.Towers(build_tokenizer()))
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    scorer = ProxyClip(assets / "clip")
    # float16 storage rounds weights to 11 bits
    torch.testing.assert_close(scorer.image(images), clip.embed_images(towers, images), atol=5e-3, rtol=0)
    expected = nn.functional.normalize(towers.texts(clip.tokenize(build_tokenizer(), ["a star"]))[0], dim=-1)
    torch.testing.assert_close(scorer.text(["a star"]), expected, atol=5e-3, rtol=0)
    assert AestheticHead.load(assets / "aesthetic")(scorer.image(images)).shape == (3,)
    assert load_ocr(assets / "ocr").config.num_labels == 3 * len(OCR_CLASSES)


@pytest.mark.slow
@pytest.mark.slow
def test_what_goes_on_from_the_export_takes_its_place(work, tmp_path, monkeypatch):
    monkeypatch.setattr(further, "CHUNK", 28)
    assets, folder = tmp_path / "assets", tmp_path / "further"
    shutil.copytree(work / "assets", assets)
    folder.mkdir()
    further.encode_further(folder, assets, 50, further.AltText())
    assert load_file(folder / further.FILE)["latents"].shape == (56, 16, 8, 8)
    assert further.train_further(folder, folder, TINY, assets)
    images = torch.randint(0, 256, (20, preferences.GROUP, 64, 64, 3), dtype=torch.uint8)
    labels = torch.arange(preferences.GROUP).expand(20, -1) < 3
    save_file({"images": images, "right": labels.contiguous(), "prompt": torch.arange(20)}, folder / preferences.FILE)
    assert preferences.train_preferences(folder, folder, TINY, assets)

    export.export_further(folder, assets)
    for name in ("pipeline", "clip", "aesthetic", "ocr"):
        check_manifest(assets / name)
    fresh = load_file(assets / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, weight in averaged_weights(folder / "further.safetensors").items():
        assert torch.equal(fresh[name], weight.half())
    changed = {
        path.parent.relative_to(assets).as_posix()
        for path in assets.rglob("*")
        if path.suffix in (".json", ".safetensors")
        and path.name != "flops.json"
        and path.read_bytes() != (work / "assets" / path.relative_to(assets)).read_bytes()
    }
    assert changed == {"pipeline/transformer", "clip", "aesthetic"}
    assert str(tmp_path) not in "".join(path.read_text() for path in assets.rglob("*.json"))


def test_export_refuses_what_is_too_large(work, monkeypatch):
    monkeypatch.setattr(export, "LIMIT", 1000)
    with pytest.raises(ValueError, match="make a network smaller"):
        export.export_assets(work, work / "other")
    assert not (work / "other").exists()


def test_latents_are_standardised_and_captions_numbered(work):
    data = encode.load_encoded(work)
    assert data.latents.shape == (48, 16, 8, 8)
    assert data.latents.float().std() == pytest.approx(1.0, abs=0.05)
    assert data.owner.min() >= 1 and data.owner.max() < len(data.tokens)


def test_decoder_stage_leaves_the_encoder_alone(work):
    whole, later = averaged_weights(work / "vae.safetensors"), averaged_weights(work / "decoder.safetensors")
    assert all(torch.equal(whole[name], later[name]) for name in whole if name.startswith("encoder."))
    assert any(not torch.equal(whole[name], later[name]) for name in whole if name.startswith("decoder."))


def test_posterior_has_the_constant_deviation_it_is_trained_with(work):
    model = vae.load_vae(work, vae.build_vae())
    deviation = model.encode(torch.rand(1, 3, 64, 64)).latent_dist.std
    torch.testing.assert_close(deviation, torch.full_like(deviation, vae.NOISE))


class _Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2)


def _fit(folder: Path, *limits: int) -> dict[str, torch.Tensor]:
    """A small regression, interrupted at the given numbers of samples."""
    for limit in limits:
        torch.manual_seed(0)
        model = _Line()
        plan = TrainingPlan(samples=80, batch=4, lr=0.05, warmup=2)
        loop = PretrainingLoop("line", folder, folder, plan, model, Muon(*split_parameters(model), plan.lr))

        def loss_of(
            step: TrainingStep, model: _Line = model, loop: PretrainingLoop = loop, limit: int = limit
        ) -> dict[str, torch.Tensor]:
            if step.first + 2 * step.batch > limit:
                loop._stopped = True  # what a termination signal does
            x = torch.randn(step.batch, 3, generator=step.generator)
            return {"loss": (model.map(x) - x[:, :2]).square().mean()}

        loop.run(loss_of, every=2)
    return averaged_weights(folder / "line.safetensors")


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    straight, resumed = _fit(tmp_path / "a", 10**6), _fit(tmp_path / "b", 24, 48, 10**6)
    assert checkpoint_progress(tmp_path / "b" / "line.safetensors")["samples"] == 80
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    records = [
        [json.loads(line) for line in (tmp_path / part / "line.jsonl").read_text().splitlines()] for part in "ab"
    ]
    assert [r["loss"] for r in records[0]] == [r["loss"] for r in records[1]]
    assert (tmp_path / "b" / "line-stable.safetensors").exists()


def test_other_seed_is_refused(tmp_path):
    _fit(tmp_path, 10**6)
    model = _Line()
    with pytest.raises(ValueError, match="seed 0, not 1"):
        PretrainingLoop(
            "line", tmp_path, tmp_path, TrainingPlan(8, 4, 0.1, seed=1), model, Muon(*split_parameters(model), 0.1)
        )


def test_plan_warms_up_stays_and_decays_to_zero():
    plan = TrainingPlan(samples=100, batch=1, lr=1.0, warmup=4, decay=0.5)
    assert [plan.rate(0, step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert plan.rate(50, 50) == 1.0 and plan.rate(75, 75) == pytest.approx(0.5) and plan.rate(100, 100) == 0.0


def test_keyed_generators_differ_by_step_and_rank():
    draws = {torch.rand(1, generator=keyed_generator(0, "x", *place)).item() for place in ((0, 0), (0, 1), (1, 0))}
    assert len(draws) == 3


@pytest.mark.parametrize("shape", [(8, 8), (4, 32), (32, 4)])
def test_orthogonalised_update_has_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    # The quintic's fixed band, from the source; a square Gaussian's smallest values may need more than five steps.
    assert values.max() < 1.25 and values.median() > 0.65


def test_muon_and_adam_updates_have_the_same_size():
    torch.manual_seed(0)
    matrix, vector = nn.Parameter(torch.zeros(16, 64)), nn.Parameter(torch.zeros(64))
    optimizer = Muon([matrix], [vector], lr=0.01)
    matrix.grad, vector.grad = torch.randn(16, 64), torch.randn(64)
    optimizer.step()
    assert vector.abs().mean().item() == pytest.approx(0.01, rel=1e-3)  # Adam's first step is the sign
    assert matrix.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.25)


def test_pictures_round_trip_and_do_not_depend_on_chunks(tmp_path):
    one, two = (
        TrainingPictures(tmp_path / "1", 10, chunk=10).open(),
        TrainingPictures(tmp_path / "2", 10, chunk=3).open(),
    )
    chosen = np.array([7, 0, 9])
    np.testing.assert_array_equal(one[chosen], two[chosen])
    np.testing.assert_array_equal(to_images(to_tensor(one[chosen])), one[chosen])


def test_ocr_labels_are_padded_with_blanks():
    assert ocr.labels_of(["A7", ""]).tolist() == [[OCR_CLASSES.index("A"), OCR_CLASSES.index("7"), 0], [0, 0, 0]]


def test_picture_loss_weighs_chroma():
    grey, made = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    assert vae.picture_loss(made, grey).item() == pytest.approx(0.75)  # 0.5 + 0.25, no edges, no chroma
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert vae.picture_loss(red + 0.5, red).item() == pytest.approx(0.75 * (1 + vae.CHROMA_WEIGHT))


def test_preferences_compare_right_with_wrong_of_one_prompt():
    scores = torch.tensor([[0.3, 0.1, 0.2], [0.0, 0.5, 0.1]])
    labels = torch.tensor([[True, False, False], [False, True, True]])
    first = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2  # .2 and .1 apart, ten times
    second = (math.log1p(math.exp(-5)) + math.log1p(math.exp(-1))) / 2
    found = preferences.preference_loss(scores, labels, torch.tensor(10.0))
    assert float(found) == pytest.approx((first + second) / 2, abs=1e-6)


def test_area_within_a_prompt_by_hand():
    scores = torch.tensor([[0.3, 0.1, 0.5], [0.2, 0.2, 0.1], [0.9, 0.8, 0.7]])
    labels = torch.tensor([[True, False, False], [True, False, True], [True, True, True]])
    # one of two pairs is won; a tie and a loss; the third prompt has no pair
    assert preferences.within_prompt_auc(scores, labels) == pytest.approx((0.5 + 0.25) / 2)


def test_auc_counts_ties_half():
    assert auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])) == 0.875
    assert auc(np.array([1.0]), np.array([True])) is None


def test_velocity_target_at_sigma_one_is_learnable(work):
    data = encode.load_encoded(work)
    loss = transformer.FlowLoss(transformer.build_transformer(width=32, layers=1), data, 0.1)
    step = TrainingStep(0, 0, 8, 0, 1, keyed_generator(0, "t", 0))
    value = loss(step)["loss"].item()
    assert math.isfinite(value) and 1.0 < value < 4.0  # unit data and unit noise: about 2 before training
