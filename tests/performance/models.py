"""Denoisers of the embedded base's kind in other sizes, with random weights, as worlds of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.datasets.worlds import load_world
from bench.preflight.conformance.fixtures import Fixtures


def fixtures_of(folder: Path, width: int = 1, resolution: int | None = None) -> Fixtures:
    """The embedded world around its base, or around one of another size that is written into a folder.

    `width` is that of the denoiser, in times of the base's; `resolution` the side of the pictures in pixels.
    """
    world = load_world("scenes")
    if width == 1 and resolution in (None, 64):
        return Fixtures(world)
    place = folder / f"width-{width}-{resolution}"
    if not place.is_dir():
        _write(world.model, place, width, resolution)
    return Fixtures(load_world("scenes", str(place)))


def _write(base: Path | str, place: Path, width: int, resolution: int | None) -> None:
    import torch
    from diffusers import SD3Transformer2DModel

    shutil.copytree(base, place)
    config = dict(SD3Transformer2DModel.load_config(place / "transformer"))
    heads = width * config["num_attention_heads"]
    config |= {"num_attention_heads": heads, "caption_projection_dim": heads * config["attention_head_dim"]}
    if resolution is not None:
        config |= {
            "sample_size": resolution // 8,
            "pos_embed_max_size": max(resolution // 16, config["pos_embed_max_size"]),
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer: Any = SD3Transformer2DModel.from_config(config)
    shutil.rmtree(place / "transformer")
    transformer.save_pretrained(place / "transformer")
