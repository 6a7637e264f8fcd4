"""Checkpoints of one cell: safetensors, a manifest with hashes, no pickle; a damaged one is named and passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.api import DataError
from bench.files import appears_whole, write_whole
from bench.provenance import hash_file
from bench.schema import canonical_json

KEEP = 2


class Checkpoints:
    """The checkpoints in a folder, newest last; the last `KEEP` stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, number: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write checkpoint `number` (rising): tensors first, then the manifest that makes it valid."""
        name = f"{number:08d}"
        digest = write_tensors(self.folder / f"{name}.safetensors", tensors)
        manifest = {"number": number, "tensors": f"{name}.safetensors", "hash": digest, "state": dict(state)}
        write_whole(self.folder / f"{name}.json", canonical_json(manifest).encode())
        for old in self._numbers()[:-KEEP]:
            (self.folder / f"{old:08d}.json").unlink(missing_ok=True)
            (self.folder / f"{old:08d}.safetensors").unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
        """Tensors and state of the newest good checkpoint, and what was wrong with newer ones; None without any."""
        complaints: list[str] = []
        for number in reversed(self._numbers()):
            path = self.folder / f"{number:08d}.json"
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
                tensors = self.folder / f"{number:08d}.safetensors"
                if hash_file(tensors) != manifest["hash"]:
                    raise DataError("its tensors do not match the hash in its manifest")
                return load_file(tensors), manifest["state"], complaints
            except (OSError, ValueError, KeyError, DataError) as error:
                complaints.append(f"checkpoint {path} is damaged and was passed over: {error}")
        return None if not complaints else ({}, {}, complaints)

    def clear(self) -> None:
        """Remove all: the cell has ended, or begins afresh."""
        for path in (*self.folder.glob("[0-9]*.json"), *self.folder.glob("*.safetensors")):
            path.unlink()

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.json"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Store tensors so that the file appears whole or not at all; returns its hash."""
    with appears_whole(path) as temporary:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, temporary)
        return hash_file(temporary)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of one file that `write_tensors` stored."""
    return load_file(path)
