"""Where a scorer's published checkpoint lies on this machine, and reading it whole. Nothing is downloaded from here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.api import CheckpointMissing, DataError

if TYPE_CHECKING:
    from torch import Tensor

CLIP_FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt")  # of a CLIP in transformers' format
_SHOWN = 6  # names in one message


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint: its home (`owner/name`), the files that are read, its licence, and how to get it.

    `gib` are those of its weights as they are held, in float32.
    """

    home: str
    files: tuple[str, ...]
    licence: str
    get: str
    gib: float = 0.0

    @property
    def held(self) -> dict[str, float]:
        """As `Reward.held` has it."""
        return {self.home: self.gib}

    @property
    def folder(self) -> Path:
        """Where it is looked for first: `$BENCH_WEIGHTS/owner--name`, or `~/.cache/bench/weights/owner--name`."""
        weights = os.environ.get("BENCH_WEIGHTS") or Path.home() / ".cache" / "bench" / "weights"
        return Path(weights) / self.home.replace("/", "--")


def located(checkpoint: PublishedCheckpoint) -> Path:
    """The folder that holds the checkpoint's files: its own one, else that of the hub's cache.

    Raises:
        CheckpointMissing: neither has all of them.
    """
    from huggingface_hub import try_to_load_from_cache

    own = checkpoint.folder
    missing = [name for name in checkpoint.files if not (own / name).is_file()]
    if not missing:
        return own
    cached = [try_to_load_from_cache(checkpoint.home, name) for name in checkpoint.files]
    if not own.is_dir() and all(isinstance(path, str) for path in cached):
        return Path(str(cached[0])).parent
    lacking = "found neither" if len(missing) == len(checkpoint.files) else f"{', '.join(missing)} missing"
    raise CheckpointMissing(
        f"{checkpoint.home}: expected {', '.join(checkpoint.files)} in {own} ($BENCH_WEIGHTS) or in the hub's cache, "
        f"{lacking}; to get it: {checkpoint.get} (licence: {checkpoint.licence})"
    )


def weights_fingerprint(*files: Path) -> str:
    """16 hex digits of the files' names and contents: what a learned score depends on besides its code."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
        digest.update(path.name.encode() + b"\0" + content.digest())
    return digest.hexdigest()


def read_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], device: str = "cpu", ignored: Collection[str] = ()
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32, which has to hold exactly these names and shapes.

    `ignored` are names that may stand there and are not read.

    Raises:
        DataError: a tensor is missing, has another shape, or is not expected; or this is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path, device=device)
    except SafetensorError as error:
        raise DataError(f"{path}: expected a safetensors file, got something else ({error}): get it again") from error
    tensors = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    refuse_other({name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes, str(path))
    return {name: tensor.float() for name, tensor in tensors.items()}


def refuse_other(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raise DataError where names or shapes of tensors differ from those expected, with the names."""
    wrong = [f"{n} {found[n]} for {shape}" for n, shape in expected.items() if n in found and found[n] != shape]
    problems = [
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", sorted(name for name in found if name not in expected)),
        ("of another shape", wrong),
    ]
    said = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in problems if names]
    if said:
        raise DataError(
            f"{what}: expected exactly the {len(expected)} tensors of this scorer's network, but {'; '.join(said)}: "
            "it is another checkpoint, or a damaged one; get it again"
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
