"""Checkpoints of the published scorers in their real format (files, names of tensors), tiny and with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.tiny_detector import write_detector

WIDTH, TEXT_WIDTH, HEADS, LAYERS, SIZE, PATCH, DIMENSIONS = 24, 16, 2, 2, 28, 7, 12
CONTEXT = 77
HPS, AESTHETIC = "HPS_v2.1_compressed.pt", "sac+logos+ava1-l14-linearMSE.pth"


def write_vocabulary(folder: Path) -> int:
    """`vocab.json` and `merges.txt` as OpenAI's: 256 bytes, the same at the end of a word, merges, two specials.

    Returns the number of tokens.
    """
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in kept] + [chr(256 + place) for place in range(256 - len(kept))]
    merges = ["r e", "re d</w>", "b l", "bl u", "blu e</w>"]
    words = [merge.replace(" ", "") for merge in merges]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *words, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return len(tokens)


def clip_config(tokens: int, activation: str = "quick_gelu", pooled: int = 2) -> dict[str, Any]:
    """A published `config.json` with small sizes; `pooled` is its text tower's `eos_token_id`."""
    return {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": DIMENSIONS,
        "logit_scale_init_value": 2.6592,
        "text_config": {
            "hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "hidden_act": activation, "vocab_size": tokens, "projection_dim": DIMENSIONS,
            "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": pooled, "pad_token_id": 1,
        },
        "vision_config": {
            "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "hidden_act": activation, "image_size": SIZE, "patch_size": PATCH,
            "projection_dim": DIMENSIONS,
        },
    }  # fmt: skip


def write_clip(folder: Path, seed: int, activation: str = "quick_gelu", **config: int) -> Path:
    """A CLIPModel's folder as `openai/clip-vit-large-patch14` and `yuvalkirstain/PickScore_v1` have it."""
    from transformers import CLIPConfig, CLIPModel

    settings = clip_config(write_vocabulary(folder), activation, **config)
    tensors = random_tensors(CLIPModel(CLIPConfig(**settings)).state_dict(), seed)
    tensors["logit_scale"] = torch.tensor(4.6052)
    tensors["text_model.embeddings.position_ids"] = torch.arange(CONTEXT)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange((SIZE // PATCH) ** 2 + 1)[None]
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def open_clip_tensors(tokens: int, seed: int) -> dict[str, Tensor]:
    """The `state_dict` of open_clip's CLIP, as in HPS_v2.1_compressed.pt, in float16 as there."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (CONTEXT, TEXT_WIDTH), "text_projection": (TEXT_WIDTH, DIMENSIONS), "logit_scale": (),
        "visual.class_embedding": (WIDTH,), "visual.positional_embedding": ((SIZE // PATCH) ** 2 + 1, WIDTH),
        "visual.proj": (WIDTH, DIMENSIONS), "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "token_embedding.weight": (tokens, TEXT_WIDTH),
    }  # fmt: skip
    layers = {"visual.ln_pre": (WIDTH,), "visual.ln_post": (WIDTH,), "ln_final": (TEXT_WIDTH,)}
    for tower, width in (("visual.transformer", WIDTH), ("transformer", TEXT_WIDTH)):
        for layer in range(LAYERS):
            block = f"{tower}.resblocks.{layer}"
            layers |= {f"{block}.ln_1": (width,), f"{block}.ln_2": (width,), f"{block}.attn.out_proj": (width, width)}
            layers |= {f"{block}.mlp.c_fc": (4 * width, width), f"{block}.mlp.c_proj": (width, 4 * width)}
            shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    tensors = random_tensors({name: torch.empty(shape) for name, shape in shapes.items()}, seed)
    return {name: tensor.half() for name, tensor in tensors.items()}


def write_open_clip(path: Path, tokens: int, seed: int) -> Path:
    """HPS v2.1's file as it is published: `{"state_dict": ...}`, pickled by torch."""
    torch.save({"state_dict": open_clip_tensors(tokens, seed)}, path)
    return path


def write_aesthetic(path: Path, seed: int, dimensions: int = DIMENSIONS) -> Path:
    """LAION's head as it is published, pickled by torch, for embeddings of so many numbers."""
    sizes = [(0, dimensions, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1)]
    empty = {}
    for place, size, count in sizes:
        empty |= {f"layers.{place}.weight": torch.empty(count, size), f"layers.{place}.bias": torch.empty(count)}
    torch.save(random_tensors(empty, seed), path)
    return path


def write_all(weights: Path, originals: Path) -> Path:
    """Everything that the four scorers look for below `$BENCH_WEIGHTS`, which has to be `weights`; returns it."""
    from rewards.convert import convert_aesthetic, convert_hpsv2

    originals.mkdir(parents=True, exist_ok=True)
    write_clip(weights / "openai--clip-vit-large-patch14", seed=1)
    write_clip(weights / "yuvalkirstain--PickScore_v1", seed=2, activation="gelu")
    tokens = write_vocabulary(originals)
    config = clip_config(tokens, "gelu", pooled=tokens - 1)
    convert_hpsv2(write_open_clip(originals / HPS, tokens, seed=3), config)
    convert_aesthetic(write_aesthetic(originals / AESTHETIC, seed=4))
    write_detector(weights / "facebook--mask2former-swin-small-coco-instance")
    return weights


def random_tensors(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Normal draws of the same shapes, with a deviation under which pictures and prompts are told apart."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(tensors[name].shape, generator=generator) for name in sorted(tensors)}
