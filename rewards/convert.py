"""One-off conversion of the three checkpoints that are published as pickles, into files that hold nothing but tensors.

    python -m rewards.convert hpsv2 HPS_v2.1_compressed.pt
    python -m rewards.convert aesthetic sac+logos+ava1-l14-linearMSE.pth
    python -m rewards.convert imagereward ImageReward.pt

The result is written where the scorer looks for it (`$BENCH_WEIGHTS`, else ~/.cache/bench/weights). This is the only
place that opens such a file, with the reader of torch that builds tensors and plain containers and calls nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from bench.api import BenchError, DataError
from bench.files import appears_whole
from rewards._clip_model import empty_clip, shapes
from rewards._open_clip import to_transformers
from rewards._weights import CLIP_FILES, located, refuse_other
from rewards.aesthetic import HEAD, head
from rewards.clipscore import OPENAI_CLIP
from rewards.hpsv2 import CONFIG, HPSv2
from rewards.imagereward import CHECKPOINT as IMAGEREWARD


def convert_hpsv2(source: Path, config: Mapping[str, Any] = CONFIG) -> Path:
    """HPS v2.1 (`{"state_dict": open_clip's tensors}`) to a folder in transformers' format; returns that folder.

    The vocabulary is OpenAI's, which open_clip uses too, copied from the checkpoint of `clipscore`.

    Raises:
        CheckpointMissing: the checkpoint of `clipscore` is not there.
        DataError: `source` cannot be read safely, or holds other tensors.
    """
    content = read_untrusted(source)
    tensors = content.get("state_dict", content)
    converted = to_transformers(tensors, shapes(empty_clip(CLIPConfig(**config))), str(source))
    vocabulary, folder = located(OPENAI_CLIP), HPSv2.checkpoint.folder
    with appears_whole(folder) as temporary:
        temporary.mkdir()
        save_file(converted, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in CLIP_FILES[2:]:
            shutil.copyfile(vocabulary / name, temporary / name)
    return folder


def convert_aesthetic(source: Path) -> Path:
    """LAION's head to safetensors, names as they are; returns the folder.

    Raises:
        DataError: `source` cannot be read safely, or holds other tensors.
    """
    tensors = read_untrusted(source)
    first = tensors.get("layers.0.weight")
    dimensions = 768 if first is None else first.shape[1]  # the scorer compares it with its CLIP's
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    refuse_other(found, shapes(head(dimensions)), str(source))
    with appears_whole(HEAD.folder / HEAD.files[0]) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    return HEAD.folder


def convert_imagereward(source: Path) -> Path:
    """ImageReward's tensors to safetensors, names as they are, and `med_config.json` beside it; returns the folder.

    Which tensors these have to be, the network says that stands in the scorer's own environment, when it loads them.

    Raises:
        DataError: `source` cannot be read safely, or has no `med_config.json` beside it.
    """
    tensors, configuration = read_untrusted(source), source.with_name("med_config.json")
    if not configuration.is_file():
        raise DataError(f"{configuration}: expected the network's configuration beside {source.name}: get it too")
    others = sorted(name for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor))
    if others:
        raise DataError(f"{source}: expected tensors by name, got other things under {', '.join(others[:6])}")
    folder = IMAGEREWARD.folder
    with appears_whole(folder) as temporary:
        temporary.mkdir()
        save_file({n: tensor.clone().contiguous() for n, tensor in tensors.items()}, temporary / IMAGEREWARD.files[0])
        shutil.copyfile(configuration, temporary / configuration.name)
    return folder


def read_untrusted(source: Path) -> dict[str, Any]:
    """The content of a .pt or .pth file, read without running what it may hold; or of a .safetensors file.

    Raises:
        DataError: there is no such file, or it holds more than tensors in plain containers.
    """
    if not source.is_file():
        raise DataError(f"{source}: expected the published checkpoint, but there is no such file")
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        content = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:  # says nothing about the file
        raise
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read: {error.strerror or error}; mend the permissions or the disk"
        ) from error
    except Exception as error:  # of damaged bytes torch and safetensors raise kinds without a common base
        first = str(error).split("\n", 1)[0]
        raise DataError(
            f"{source}: expected a checkpoint that holds tensors only, got something else ({first}): get it again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{source}: expected a dictionary of tensors, got {type(content).__name__}")
    return content


CONVERSIONS: dict[str, Callable[[Path], Path]] = {
    "hpsv2": convert_hpsv2, "aesthetic": convert_aesthetic, "imagereward": convert_imagereward,
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Convert what the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rewards.convert", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("scorer", choices=tuple(CONVERSIONS))
    parser.add_argument("file", type=Path, help="as it was published")
    given = parser.parse_args(arguments)
    try:
        folder = CONVERSIONS[given.scorer](given.file)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {folder}: `python -m bench check {given.scorer}` tries it out")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
