"""What the pictures are prepared for: the model's resolution, and which captions its text encoders read in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.canonical import config_hash, hash_file
from bench.datasets.buckets import BucketGrid
from bench.datasets.pictures.rows import PictureFault
from bench.families import family_in
from bench.reading import read_json

_CHUNK = 512
_LARGEST = 16_384  # pixels of a side, where the model has no limit of its own


def model_resolution(model: Path) -> int:
    """Pixels of a side of the pictures that a diffusers pipeline folder draws.

    Raises:
        DataError: it is of no family that can be trained, or its configuration is missing or damaged.
    """
    return int(_sides(model).native)


def bucket_grid(model: Path) -> BucketGrid:
    """The sizes of pictures that a diffusers pipeline folder takes; raises as `model_resolution` does."""
    sides = _sides(model)
    return BucketGrid(sides.unit, sides.largest or _LARGEST)


def _sides(model: Path) -> Any:
    """The family's `Sides` for the configurations of transformer and VAE."""
    family = family_in(model)
    try:
        return family.sides(*(read_json(model / part / "config.json") for part in ("transformer", "vae")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{model}: expected a diffusers pipeline folder whose transformer and vae say their sizes ({error}): "
            "restore it, or give another one by --model"
        ) from error


class CaptionLimits:
    """Says which captions the text encoders of a pipeline folder cannot read in full.

    The family says which tokenizer decides: in SD3 T5's, which reads on where CLIP stops, or CLIP's where it is alone.
    """

    def __init__(self, model: Path, text_length: int | None = None) -> None:
        """`text_length` is the tokens that are read of every text (None: the family's own); 0 leaves out T5."""
        from transformers import AutoTokenizer

        self._family = family_in(model)
        part = self._family.tokenizer_of(model, text_length)
        folder = model / part
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: expected a tokenizer; loading it failed: {error}. Restore it") from error
        self._limit = self._family.limit(self._tokenizer, text_length, part)
        self.fingerprint = config_hash(
            {"limit": self._limit, "files": [hash_file(path) for path in sorted(folder.iterdir()) if path.is_file()]}
        )

    def faults(self, captions: Sequence[object]) -> list[PictureFault | None]:
        """Why each caption cannot be used, or None where it can."""
        found: list[PictureFault | None] = [_form(caption) for caption in captions]
        readable = [row for row, fault in enumerate(found) if fault is None]
        for start in range(0, len(readable), _CHUNK):
            rows = readable[start : start + _CHUNK]
            tokens = self._family.tokens(self._tokenizer, [str(captions[row]) for row in rows])
            for row, ids in zip(rows, tokens, strict=True):
                found[row] = self._reading(ids)
        return found

    def _reading(self, ids: Sequence[int]) -> PictureFault | None:
        if len(ids) > self._limit:
            return PictureFault("caption too long", f"{len(ids)} tokens, but the text encoders read {self._limit}")
        if self._tokenizer.unk_token_id in ids[1:-1]:
            return PictureFault("unreadable caption", "it has letters that the text encoders do not know")
        return None


def _form(caption: object) -> PictureFault | None:
    if caption is None or (isinstance(caption, str) and not caption.strip()):
        return PictureFault("no caption", "it is empty")
    if not isinstance(caption, str):
        return PictureFault("no caption", f"expected a text, got {type(caption).__name__}")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        return PictureFault("unreadable caption", f"it is no text that can be stored: {error.reason}")
    return None
