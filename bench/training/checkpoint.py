"""Checkpoints: safetensors, a manifest with hashes, no pickle; one that is damaged, or another's, is passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bench.api import DataError
from bench.canonical import canonical_json, config_hash, hash_file
from bench.files import remove_file, remove_parts, write_whole
from bench.paths import inside
from bench.reading import read_json
from bench.tensors import write_tensors

KEEP = 2
_NUMBER = "[0-9]" * 8  # how the files of a checkpoint are called


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: tensors by name, and JSON-able state."""

    number: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints in a folder, newest last; the last `KEEP` stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] = {}

    def save(
        self, number: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], beside: Sequence[str] = ()
    ) -> None:
        """Write checkpoint `number` (rising): tensors first, then the manifest that makes it valid.

        `beside` names files of this folder that it is of no use without: their hashes are kept and checked too.

        Raises:
            DataError: the disk is full or the folder cannot be written; earlier checkpoints stay.
        """
        name = f"{number:08d}"
        files = {f"{name}.safetensors": write_tensors(self.folder / f"{name}.safetensors", tensors)}
        files |= {other: self._digest(other) for other in beside}
        # As it will be read: keys that are numbers come back as texts, in another order
        body = json.loads(canonical_json({"number": number, "files": files, "state": dict(state)}))
        write_whole(self.folder / f"{name}.json", canonical_json({"body": body, "hash": config_hash(body)}).encode())
        numbers = self._numbers()
        kept = [it for it in numbers if it <= number][-KEEP:]  # those above were passed over, or this would not rise
        for old in (it for it in numbers if it not in kept):
            for kind in ("json", "safetensors"):
                remove_file(self.folder / f"{old:08d}.{kind}")

    def load(self, refuse: Callable[[Mapping[str, Any]], None] = lambda state: None) -> tuple[Saved | None, list[str]]:
        """The newest good checkpoint, or None without any; and what is wrong with each newer one.

        `refuse` raises DataError for the state of one that is whole and yet not to be gone on from.
        """
        complaints: list[str] = []
        for number in reversed(self._numbers()):
            path = self.folder / f"{number:08d}.json"
            try:
                saved = self.read(number)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError, DataError) as error:
                complaints.append(f"{path} is damaged and was passed over: {error}")
                continue
            try:
                refuse(saved.state)
            except DataError as error:
                complaints.append(f"{path} was passed over: {error}")
                continue
            return saved, complaints
        return None, complaints

    def read(self, number: int) -> Saved:
        """Checkpoint `number`; raises one of several errors where it is damaged."""
        name = f"{number:08d}"
        manifest = read_json(inside(self.folder, f"{name}.json"))
        body = manifest["body"]
        if config_hash(body) != manifest["hash"] or body["number"] != number:
            raise DataError("its manifest does not match the manifest's own hash")
        for file, digest in {f"{name}.safetensors": "", **body["files"]}.items():
            if hash_file(inside(self.folder, file)) != digest:
                raise DataError(f"{file} does not match its hash in the manifest")
        return Saved(number, load_file(self.folder / f"{name}.safetensors"), body["state"])

    def clear(self) -> None:
        """Remove all: the cell has ended, or begins afresh."""
        remove_parts(self.folder)
        for name in (f"{_NUMBER}.json", f"{_NUMBER}.safetensors", "stage[0-9]*.safetensors"):
            for path in self.folder.glob(name):
                remove_file(path)

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = hash_file(self.folder / name)
        return self._digests[name]

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob(f"{_NUMBER}.json"))
