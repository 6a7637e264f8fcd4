"""Assembles what was trained into the folders that are shipped: the pipeline and the proxy scorers, in float16."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPImageProcessor

from bench.config.built_in_tasks import TASKS
from bench.config.settings import Train
from bench.datasets.scenes.manifest import ASSETS, write_manifest
from bench.datasets.scenes.proxies import AESTHETIC_FOLDER, CLIP_FOLDER, OCR_FOLDER
from bench.datasets.worlds import load_world
from bench.models.embedded_flops import EmbeddedFlops, write_flops
from bench.models.policy import PipelinePolicy
from bench.scoring.loading import load_scorers
from pretrain import aesthetic, clip, encode, ocr, transformer, vae
from pretrain.further import further_pipeline
from pretrain.pipeline import assemble_pipeline
from pretrain.preferences import preferred_scorers
from pretrain.tokenizer import build_tokenizer, save_tokenizer

LIMIT = 12 * 2**20  # bytes of the whole assets folder


def trained_pipeline(folder: Path) -> StableDiffusion3Pipeline:
    """The pipeline of the checkpoints in a work folder, in float32."""
    autoencoder = vae.load_vae(folder, vae.build_vae())
    autoencoder.register_to_config(**encode.latent_scaling(folder))
    towers = clip.load_clip(folder, clip.Towers(build_tokenizer()), encode.TEXT_ENCODERS)
    return assemble_pipeline(towers, transformer.load_transformer(folder), autoencoder)


def _save_pipeline(pipeline: Any, folder: Path) -> None:
    half = copy.deepcopy(pipeline).to(torch.float16)
    half.save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(pipeline.tokenizer, folder / name)
    for name in ("text_encoder", "text_encoder_2"):  # what is stored in half loads in full, as diffusers' own parts do
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def _save_scorers(folder: Path, target: Path) -> None:
    towers = clip.load_clip(folder, clip.Towers(build_tokenizer()))
    towers.clip.half().save_pretrained(target / CLIP_FOLDER)
    save_tokenizer(build_tokenizer(), target / CLIP_FOLDER)
    size = {"height": 64, "width": 64}
    processor = CLIPImageProcessor(
        size=size, crop_size=size, do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(target / CLIP_FOLDER)
    if (folder / "aesthetic.safetensors").exists():
        aesthetic.load_aesthetic_head(folder).save(target / AESTHETIC_FOLDER)
    if (folder / "ocr.safetensors").exists():
        ocr.load_ocr(folder).half().save_pretrained(target / OCR_FOLDER)


def count_flops(pipeline: Path) -> EmbeddedFlops:
    """The FLOPs of a pipeline's passes, and of the rewards that train in the tasks of scenes."""
    policy, world = PipelinePolicy.load(pipeline, device="cpu"), load_world("scenes", str(pipeline))
    policy.prepare(Train(), 0)
    tasks = [task for task in TASKS[world.name].values() if task.get("reward")]
    scorers = load_scorers({task["reward"] for task in tasks})
    for task in tasks:
        example = world.candidates(task["categories"] or world.categories, 1)
        scorers[task["reward"]].measure(example.images[0], example.prompts[0].text, example.prompts[0].metadata)
    return EmbeddedFlops(policy.measure_flops(), {name: one.flops for name, one in scorers.items()}, policy.shift)


def export_assets(folder: Path, assets: Path = ASSETS) -> None:
    """Write pipeline, scorers and their hashes to `assets`; an old version stays until the new one is whole.

    Raises: ValueError if the result is larger than what the repository may hold.
    """
    fresh = _fresh(assets)
    _save_pipeline(trained_pipeline(folder), fresh / "pipeline")
    _save_scorers(folder, fresh)
    _put_in_place(fresh, assets)


def export_further(folder: Path, assets: Path = ASSETS) -> None:
    """Replace denoiser, CLIP and aesthetic head in `assets` by what went on from them, as `export_assets` does."""
    fresh = _fresh(assets)
    shutil.copytree(assets, fresh)
    pipeline = further_pipeline(folder, assets)
    _replace_weights(pipeline.transformer, fresh / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    clip, head = preferred_scorers(folder, assets)
    _replace_weights(clip, fresh / CLIP_FOLDER / "model.safetensors")
    head.save(fresh / AESTHETIC_FOLDER)
    _put_in_place(fresh, assets)


def _replace_weights(model: nn.Module, path: Path) -> None:
    """In float16, and nothing but the weights: a saved configuration would name the folder that it came from."""
    weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt"})


def _fresh(assets: Path) -> Path:
    fresh = assets.with_name(assets.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    return fresh


def _put_in_place(fresh: Path, assets: Path) -> None:
    """Complete new assets by FLOPs and hashes, and let them take the place of the old."""
    write_flops(count_flops(fresh / "pipeline"), fresh)
    write_manifest(fresh)
    size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
    if size > LIMIT:
        raise ValueError(f"{fresh}: {size} bytes, but the assets may have at most {LIMIT}: make a network smaller")
    old = assets.with_name(assets.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if assets.exists():
        assets.rename(old)
    fresh.rename(assets)
    shutil.rmtree(old, ignore_errors=True)
    print(f"exported {size / 2**20:.2f} MiB to {assets}", flush=True)
