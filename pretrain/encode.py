"""Encodes the training set once: latents of all pictures, embeddings of all captions, as the pipeline makes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretrain import clip, vae
from pretrain.data import TrainingPictures, to_tensor
from pretrain.parallel import process_place
from pretrain.pipeline import text_pipeline
from pretrain.tokenizer import build_tokenizer

FILE = "encoded.safetensors"
TEXT_ENCODERS = "text-encoders.safetensors"


@torch.no_grad()
def encode_captions(pipeline: Any, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token embeddings (B, 18, 256) and pooled embeddings (B, 256) of captions, by the pipeline's own encode_prompt.

    max_sequence_length=0 leaves out the zeros that stand for the absent third encoder.
    """
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompt=list(captions),
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,
        max_sequence_length=0,
        device="cpu",
    )
    return tokens, pooled


@dataclass(frozen=True)
class Encoded:
    """The training set as the transformer sees it; caption number 0 is the empty one.

    latents: float16 (N, 16, 8, 8), posterior means, shifted and scaled. owner: int32 (N,), each picture's caption.
    tokens: float16 (captions, 18, 256). pooled: float16 (captions, 256).
    """

    latents: Tensor
    owner: Tensor
    tokens: Tensor
    pooled: Tensor


@torch.no_grad()
def encode_pictures(folder: Path, pictures: TrainingPictures, part: int = 0, parts: int = 1) -> None:
    """Write the posterior means of all pictures, chunk by chunk; chunks that exist are left.

    With `parts` > 1 only every parts-th chunk, so that processes can share the work.
    """
    model = vae.load_vae(folder, vae.build_vae(), decoder=False)
    target = folder / "latents"
    target.mkdir(exist_ok=True)
    for number in range(part, len(pictures.chunks), parts):
        path = target / f"{number:05d}.npy"
        if path.exists():
            continue
        chunk = np.array(pictures.chunks[number])
        means = [model.encode(to_tensor(chunk[i : i + 100])).latent_dist.mean for i in range(0, len(chunk), 100)]
        half = path.with_suffix(f".{part}.part")
        with half.open("wb") as file:
            np.save(file, torch.cat(means).half().numpy())
        half.replace(path)
        print(f"encode {path.name} of {len(pictures.chunks)}", flush=True)


def encode_training_set(folder: Path, pictures: TrainingPictures) -> None:
    """Write latents and caption embeddings to `folder`, with the autoencoder's shift and scale beside them.

    Several processes share the pictures; the first one does the rest.
    """
    rank, ranks = process_place()
    encode_pictures(folder, pictures, rank, ranks)
    if ranks > 1:
        dist.barrier()
    if rank:
        return
    files = [folder / "latents" / f"{number:05d}.npy" for number in range(len(pictures.chunks))]
    latents = torch.from_numpy(np.concatenate([np.load(path) for path in files])[: len(pictures)])
    # One shift and one scale for all channels, as in SD3's autoencoder.
    sample = latents[:20_000].float()
    shift, scale = float(sample.mean()), float(1 / sample.std())
    # The transformer depends on these very text encoders; the CLIP as a scorer may be trained further.
    shutil.copyfile(folder / "clip.safetensors", folder / TEXT_ENCODERS)
    pipeline = text_pipeline(clip.load_clip(folder, clip.Towers(build_tokenizer()), TEXT_ENCODERS))
    captions = [scene.caption for scene in pictures.scenes(range(len(pictures)))]
    unique = write_encoded(folder / FILE, pipeline, latents.sub_(shift).mul_(scale), captions)
    (folder / "scaling.json").write_text(json.dumps({"shift_factor": shift, "scaling_factor": scale}))
    print(f"encode done: {len(latents)} pictures, {unique} captions, shift {shift:.4f}, scale {scale:.4f}")


def write_encoded(path: Path, pipeline: Any, latents: Tensor, captions: Sequence[str]) -> int:
    """Write latents (N, C, H, W) with their captions, each encoded once, the empty one first; how many those are."""
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(["", *captions]))}
    unique = list(numbers)
    pairs = [encode_captions(pipeline, unique[i : i + 500]) for i in range(0, len(unique), 500)]
    encoded = {
        "latents": latents,
        "owner": torch.tensor([numbers[caption] for caption in captions], dtype=torch.int32),
        "tokens": torch.cat([tokens for tokens, _ in pairs]).half(),
        "pooled": torch.cat([pooled for _, pooled in pairs]).half(),
    }
    half = path.with_suffix(".part")
    save_file(encoded, half)
    half.replace(path)
    return len(unique)


def latent_scaling(folder: Path) -> dict[str, float]:
    """The autoencoder's shift_factor and scaling_factor, measured when the training set was encoded."""
    return dict(json.loads((folder / "scaling.json").read_text()))


def load_encoded(folder: Path) -> Encoded:
    """The encoded training set, memory-mapped where the platform allows."""
    return Encoded(**load_file(folder / FILE))
