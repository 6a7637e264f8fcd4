"""The base goes on from the shipped weights, on captions as alt text has them: half right, and partial.

Real base models learn from captions of which many are wrong or leave things out, so that clean captions have something
left to teach. Text makes up a larger share than among the prompts, because glyphs are learnt last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.datasets.scenes.render import render_scenes
from bench.datasets.scenes.scene import sample_scenes
from bench.datasets.scenes.vocabulary import CATEGORIES
from pretrain.agreement import open_pipeline
from pretrain.clip import with_text_share
from pretrain.data import CHUNK, to_tensor
from pretrain.encode import Encoded, write_encoded
from pretrain.loop import PretrainingLoop, TrainingPlan, TrainingStep, averaged_weights
from pretrain.muon import Muon, split_parameters
from pretrain.parallel import process_place
from pretrain.transformer import OUTER, FlowLoss
from pretrain.vae import NOISE

STREAM = "pretrain-further"
TEXT_SHARE = 0.5
FILE = "further-encoded.safetensors"


@dataclass(frozen=True)
class AltText:
    """Shares of captions that are wrong, and that leave something out."""

    wrong: float = 0.3
    partial: float = 0.25


@torch.no_grad()
def encode_further(folder: Path, assets: Path, count: int, shares: AltText, seed: int = 0) -> None:
    """Render scenes of a stream of their own and write their latents and captions to `folder`, by the shipped models.

    Chunks that exist are left; several processes share the rest.
    """
    pipeline = open_pipeline(assets)
    rank, ranks = process_place()
    parts = folder / "further"
    parts.mkdir(parents=True, exist_ok=True)
    chunks = -(-count // CHUNK)
    for number in range(rank, chunks, ranks):
        path = parts / f"{seed}-{number:05d}.npy"
        if path.exists():
            continue
        scenes = sample_scenes(STREAM, seed, number * CHUNK, CHUNK)
        means = [_means(pipeline.vae, render_scenes(scenes[i : i + 100])) for i in range(0, CHUNK, 100)]
        half = path.with_suffix(f".{rank}.part")
        with half.open("wb") as file:
            np.save(file, np.concatenate(means))
        half.replace(path)
        print(f"further {path.name} of {chunks}", flush=True)
    if ranks > 1:
        torch.distributed.barrier()
    if rank == 0:
        _join(folder, [parts / f"{seed}-{n:05d}.npy" for n in range(chunks)], pipeline, shares, seed)


def _means(vae: Any, images: np.ndarray) -> np.ndarray:
    mean = vae.encode(to_tensor(images)).latent_dist.mean
    return ((mean - vae.config.shift_factor) * vae.config.scaling_factor).half().numpy()


def _join(folder: Path, files: list[Path], pipeline: Any, shares: AltText, seed: int) -> None:
    latents = torch.from_numpy(np.concatenate([np.load(path) for path in files]))
    scenes = sample_scenes(
        STREAM, seed, 0, len(latents), wrong_caption_share=shares.wrong, partial_caption_share=shares.partial
    )
    unique = write_encoded(folder / FILE, pipeline, latents, [scene.caption for scene in scenes])
    wrong = sum(scene.wrong_caption for scene in scenes) / len(scenes)
    partial = sum(scene.partial_caption for scene in scenes) / len(scenes)
    print(f"further: {len(latents)} pictures, {unique} captions, {wrong:.3f} wrong, {partial:.3f} partial")


class FurtherLoss(FlowLoss):
    """Flow matching of which a share of each batch are texts."""

    def indices(self, step: TrainingStep) -> Tensor:
        """Picture numbers (B,)."""
        drawn = step.indices(len(self.data.latents) - len(CATEGORIES)).numpy()
        return torch.from_numpy(with_text_share(drawn, TEXT_SHARE))


def train_further(folder: Path, log: Path, plan: TrainingPlan, assets: Path) -> bool:
    """Go on with the shipped transformer on what `encode_further` wrote; whether the plan's end was reached."""
    pipeline = open_pipeline(assets)
    model: Any = pipeline.transformer.float().train().requires_grad_(True)
    optimizer = Muon(*split_parameters(model, OUTER), plan.lr, scale=0.3, betas=(0.9, 0.98), weight_decay=0.01)
    data = Encoded(**load_file(folder / FILE))
    loss = FurtherLoss(model, data, NOISE * pipeline.vae.config.scaling_factor)
    return PretrainingLoop("further", folder, log, plan, model, optimizer).run(loss, every=100)


def further_pipeline(folder: Path, assets: Path, checkpoint: str = "further.safetensors") -> Any:
    """The shipped pipeline with the averaged weights of a checkpoint."""
    pipeline = open_pipeline(assets)
    pipeline.transformer.float().load_state_dict(averaged_weights(folder / checkpoint))
    pipeline.transformer.requires_grad_(False).eval()
    return pipeline
