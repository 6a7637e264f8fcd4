"""What the bits of an encoding depend on beside its source: a run must end with the same bytes, cache or none."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

import torch

from bench.canonical import config_hash, hash_file
from bench.device import describe_device

VERSION = 1  # raise it with every change of the harness that can change an encoding
_PACKAGES = ("torch", "diffusers", "transformers")  # other versions may round differently


def encoder_identity(folder: Path, parts: Sequence[str], device: torch.device, held: str) -> str:
    """16 hex digits of some parts of a pipeline folder, weights and configuration, and of how and where they run.

    `held` is the precision of their weights. Threads, processor and packages count, because each may round differently.
    """
    return config_hash(
        {
            "version": VERSION, "parts": _files(folder, tuple(parts)), "held": held,
            "device": describe_device(str(device)), "threads": torch.get_num_threads(),
            "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability()],
            "packages": {name: metadata.version(name) for name in _PACKAGES},
        }
    )  # fmt: skip


def entry_key(encoder: str, source: str) -> str:
    """32 hex digits of a source (a caption, or a picture's own hash) as one encoder sees it."""
    return blake2b(f"{encoder}\0{source}".encode(), digest_size=16).hexdigest()


@cache
def _files(folder: Path, parts: tuple[str, ...]) -> dict[str, str]:
    """The hashes of all files of some parts; of a fetched model the hub's revision tells all."""
    if folder.parent.name == "snapshots":
        return {"revision": folder.name, "parts": " ".join(parts)}
    paths = [path for part in parts for path in sorted((folder / part).glob("[!.]*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
