"""Files of named tensors: safetensors, which hold no code, and appear whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.canonical import hash_file
from bench.files import appears_whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> str:
    """Store tensors so that the file appears whole or not at all, with texts `about` them; returns its hash.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    with appears_whole(path) as temporary:
        try:
            held = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
            save_file(held, temporary, dict(about) if about else None)
        except SafetensorError as error:  # how it reports the operating system's refusals
            raise OSError(str(error)) from error
        return hash_file(temporary)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of one file that `write_tensors` stored."""
    return load_file(path)
