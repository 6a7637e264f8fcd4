"""What the pictures are prepared for: the model's resolution, and which captions its text encoders read in full."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.api import DataError
from bench.canonical import config_hash, hash_file
from bench.datasets.buckets import BucketGrid
from bench.datasets.pictures.rows import PictureFault
from bench.families import family_in
from bench.readable import readable, unknown_letters
from bench.reading import read_json

_CHUNK = 512
_LARGEST = 16_384  # pixels of a side, where the model has no limit of its own


class ReadCaptions(NamedTuple):
    """The captions of a picture as they are read; how many are cut, and have punctuation that is read as a space."""

    texts: tuple[str, ...]
    cut: int
    unread: int


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

    def __init__(self, model: Path, text_length: int | None = None, *, cut: bool = False) -> None:
        """`text_length` is the tokens that are read of every text (None: the family's own); 0 leaves out T5.

        `cut`: what is too long is cut by `read`.
        """
        from transformers import AutoTokenizer

        self._family = family_in(model)
        part = self._family.tokenizer_of(model, text_length)
        folder = model / part
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: expected a tokenizer; loading it failed: {error}. Restore it") from error
        self._limit = self._family.limit(self._tokenizer, text_length, part)
        self._cut = cut
        about = {"limit": self._limit, "files": [hash_file(p) for p in sorted(folder.iterdir()) if p.is_file()]}
        self.fingerprint = config_hash(about | ({"cut": True} if cut else {}))

    def read(self, rows: Sequence[object]) -> list[ReadCaptions | PictureFault]:
        """What is read of the captions of each row, a text or a list of texts; or why they cannot be used."""
        lists = [_texts(row) for row in rows]
        flat = [text for texts in lists for text in texts]
        known = dict(zip(_keys(flat), self.faults(flat), strict=True))
        return [self._of_row(texts, [known[key] for key in _keys(texts)]) for texts in lists]

    def _of_row(self, texts: Sequence[object], faults: Sequence[PictureFault | None]) -> ReadCaptions | PictureFault:
        kept, cut = [], 0
        for number, (text, fault) in enumerate(zip(texts, faults, strict=True), 1):
            shorter = self._shortened(str(text)) if self._cut and fault and fault.kind == "caption too long" else None
            if fault is not None and shorter is None:
                return fault if len(texts) == 1 else PictureFault(fault.kind, f"caption {number}: {fault.detail}")
            kept.append(str(text) if shorter is None else shorter)
            cut += shorter is not None
        if not kept:
            return PictureFault("no caption", "its list is empty")
        unread = sum(before != after for before, after in zip(kept, readable(self._tokenizer, kept), strict=True))
        return ReadCaptions(tuple(kept), cut, unread)

    def _shortened(self, text: str) -> str | None:
        """As many whole words from the beginning as are read; None where that is none."""
        ends = [word.end() for word in re.finditer(r"\S+", text)]
        fits, too_many = 0, len(ends)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            is_longer = len(self._tokens([text[: ends[middle - 1]]])[0]) > self._limit
            fits, too_many = (fits, middle) if is_longer else (middle, too_many)
        return text[: ends[fits - 1]] if fits else None

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self._family.tokens(self._tokenizer, readable(self._tokenizer, texts))

    def faults(self, captions: Sequence[object]) -> list[PictureFault | None]:
        """Why each caption cannot be used, or None where it can."""
        found: list[PictureFault | None] = [_form(caption) for caption in captions]
        readable = [row for row, fault in enumerate(found) if fault is None]
        for start in range(0, len(readable), _CHUNK):
            rows = readable[start : start + _CHUNK]
            texts = [str(captions[row]) for row in rows]
            for row, text, ids in zip(rows, texts, self._tokens(texts), strict=True):
                found[row] = self._reading(text, ids)
        return found

    def _reading(self, text: str, ids: Sequence[int]) -> PictureFault | None:
        if len(ids) > self._limit:
            told = f"{len(ids)} tokens, but the text encoders read {self._limit}"
            return PictureFault("caption too long", told + "; --data.long_captions cut cuts it" * (not self._cut))
        if self._tokenizer.unk_token_id in ids[1:-1]:
            letters = ", ".join(map(repr, unknown_letters(self._tokenizer, *readable(self._tokenizer, [text]))))
            return PictureFault("unreadable caption", f"it has letters that the text encoders do not know: {letters}")
        return None


def _texts(row: object) -> list[object]:
    return list(row) if isinstance(row, list | tuple) else [row]


def _keys(texts: Sequence[object]) -> list[tuple[str, str]]:
    """What tells equal captions: those of another type than text are others."""
    return [(type(text).__name__, repr(text)) for text in texts]


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
