"""What the pictures are prepared for: the model's resolution, and which captions its text encoders read in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.api import DataError
from bench.canonical import config_hash, hash_file
from bench.datasets.buckets import BucketGrid
from bench.datasets.pictures.rows import PictureFault
from bench.reading import read_json

T5_TOKENS = 256  # as the policy encodes, where nothing else is asked for
_CHUNK = 512


def model_resolution(model: Path) -> int:
    """Pixels of a side of the pictures that a diffusers SD3 pipeline folder draws.

    Raises:
        DataError: its configuration is missing or damaged.
    """
    (latents,), pixels = _numbers(model, "sample_size")
    return latents * pixels


def bucket_grid(model: Path) -> BucketGrid:
    """The sizes of pictures that a diffusers SD3 pipeline folder takes; raises as `model_resolution` does."""
    (patch, patches), pixels = _numbers(model, "patch_size", "pos_embed_max_size")
    return BucketGrid(patch * pixels, patches * patch * pixels)


def _numbers(model: Path, *names: str) -> tuple[list[int], int]:
    """Numbers that the transformer's configuration names, and the pixels across one latent."""
    try:
        numbers = read_json(model / "transformer" / "config.json")
        levels = read_json(model / "vae" / "config.json")["block_out_channels"]
        return [int(numbers[name]) for name in names], 2 ** (len(levels) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{model}: expected a diffusers pipeline folder whose transformer and vae say their sizes ({error}): "
            "restore it, or give another one by --model"
        ) from error


class CaptionLimits:
    """Says which captions the text encoders of a pipeline folder cannot read in full.

    CLIP's tokenizer decides where the model has no T5. Where it has one, T5 reads on where CLIP stops, as in SD3.
    """

    def __init__(self, model: Path, text_length: int | None = None) -> None:
        """`text_length` is the tokens that T5 reads (`T5_TOKENS` for None); 0 leaves it out."""
        from transformers import AutoTokenizer

        has_t5 = text_length != 0 and (model / "text_encoder_3").is_dir()
        folder = model / ("tokenizer_3" if has_t5 else "tokenizer")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: expected a tokenizer; loading it failed: {error}. Restore it") from error
        self._limit = (text_length or T5_TOKENS) if has_t5 else int(self._tokenizer.model_max_length)
        self.fingerprint = config_hash(
            {"limit": self._limit, "files": [hash_file(path) for path in sorted(folder.iterdir()) if path.is_file()]}
        )

    def faults(self, captions: Sequence[object]) -> list[PictureFault | None]:
        """Why each caption cannot be used, or None where it can."""
        found: list[PictureFault | None] = [_form(caption) for caption in captions]
        readable = [row for row, fault in enumerate(found) if fault is None]
        for start in range(0, len(readable), _CHUNK):
            rows = readable[start : start + _CHUNK]
            tokens = self._tokenizer([captions[row] for row in rows], verbose=False).input_ids
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
