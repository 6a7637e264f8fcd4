"""The learned scorers of the embedded world: their file formats, their exact preprocessing, their networks.

Each lives in a folder of its own below the assets, in Hugging Face's format, weights in `model.safetensors`:

    clip       a CLIPModel with its CLIPTokenizer; a caption is padded to the tokenizer's `model_max_length`
    aesthetic  an `AestheticHead` on the CLIP's image embedding, with `config.json` {"embedding_dim", "hidden_dim"}
    ocr        a ResNetForImageClassification with OCR_SLOTS * len(OCR_CLASSES) logits, slot by slot

Pixels are float32 (B, 3, 64, 64), x / 127.5 - 1 for x in 0 to 255, that is mean 0.5 and deviation 0.5 of x / 255, as
for the VAE. Nothing is resized or cropped. Weights may be stored in float16; all arithmetic is float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, ResNetForImageClassification
from transformers.utils import logging

from bench.api import DataError
from bench.datasets.scenes.manifest import ASSETS as ASSETS
from bench.datasets.scenes.manifest import check_manifest
from bench.datasets.scenes.vocabulary import GLYPHS
from bench.features import features
from bench.readable import readable, unknown_letters

CLIP_FOLDER, AESTHETIC_FOLDER, OCR_FOLDER = "clip", "aesthetic", "ocr"
OCR_SLOTS = 3
OCR_CLASSES = ("", *GLYPHS)  # the blank first
CHUNK = 64


def pixels(images: np.ndarray, size: int = 64) -> Tensor:
    """Float32 (B, 3, size, size) in [-1, 1] of pictures uint8 (B, size, size, 3).

    Raises:
        DataError: pictures of another size or type.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise DataError(f"expected pictures uint8 (B, {size}, {size}, 3), got {images.dtype} {images.shape}")
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def proxy_fingerprint(*folders: Path) -> str:
    """A hash of every file of the folders: what a learned score depends on besides its code.

    Raises:
        DataError: a folder is missing, or one of the shipped ones is damaged.
    """
    digest = hashlib.blake2b(digest_size=8)
    for folder in folders:
        for path in sorted(p for p in _there(folder).rglob("*") if p.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _there(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: expected a learned scorer, but there is no config.json. The embedded world's scorers come with "
            "the repository; `python -m bench pretrain` rebuilds them"
        )
    if folder.parent == ASSETS:
        check_manifest(folder)
    return folder


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Loading these files takes no time worth a bar, and a bar would break the harness' own display."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class ProxyClip:
    """A CLIPModel with its tokenizer, frozen: unit embeddings of pictures and captions."""

    def __init__(self, folder: Path) -> None:
        with _without_progress_bar():
            model = CLIPModel.from_pretrained(
                _there(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        self.fingerprint = proxy_fingerprint(folder)
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.size = int(self.model.config.vision_config.image_size)
        # With the configuration's default, 2, transformers pools at the highest token id instead of at the end token.
        pooled, end = self.model.config.text_config.eos_token_id, self.tokenizer.eos_token_id
        if pooled != end:
            raise DataError(f"{folder}: the text tower pools at token {pooled}, but the tokenizer ends with {end}")

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        """Token ids (B, model_max_length), padded, never truncated.

        Raises:
            DataError: a caption is longer than the text tower reads, or has letters that the tokenizer does not know.
        """
        limit, end = self.tokenizer.model_max_length, self.tokenizer.eos_token_id
        read = readable(self.tokenizer, captions)
        for caption, ids in zip(captions, self.tokenizer(read).input_ids, strict=True):
            if len(ids) > limit:
                raise DataError(f"caption {caption!r}: {len(ids)} tokens, but the scorer reads {limit}: shorten it")
            if ids.count(end) != 1:  # an unknown letter becomes an end token, at which the tower would stop reading
                letters = ", ".join(map(repr, unknown_letters(self.tokenizer, caption)))
                raise DataError(
                    f"caption {caption!r}: it has letters that the scorer's tokenizer does not know: {letters}"
                )
        return self.tokenizer(read, padding="max_length", return_tensors="pt").input_ids

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Tensor:
        """Unit embeddings (B, D) of captions; equal captions are embedded once."""
        unique = list(dict.fromkeys(captions))
        ids = self.token_ids(unique)
        parts = [self.model.get_text_features(input_ids=part).pooler_output for part in ids.split(CHUNK)]
        rows = {caption: row for row, caption in enumerate(unique)}
        return _unit(torch.cat(parts))[[rows[caption] for caption in captions]]

    @torch.no_grad()
    def image(self, images: np.ndarray) -> Tensor:
        """Unit embeddings (B, D) of pictures uint8 (B, H, W, 3)."""
        return features(self.fingerprint, images, lambda: self._embedded(pixels(images, self.size)))

    def image_with_gradient(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, D) of pictures float32 (B, 3, H, W) in [0, 1], with gradient.

        Raises:
            DataError: pictures of another size.
        """
        if tuple(images.shape[1:]) != (3, self.size, self.size):
            raise DataError(f"expected pictures (B, 3, {self.size}, {self.size}), got {tuple(images.shape)}")
        return self._embedded(2 * images - 1)

    def _embedded(self, prepared: Tensor) -> Tensor:
        parts = prepared.split(CHUNK)
        return _unit(torch.cat([self.model.get_image_features(pixel_values=part).pooler_output for part in parts]))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


class AestheticHead(nn.Module):
    """Unit image embeddings (B, D) to scores (B,) in (0, 10).

    Source: LAION's improved-aesthetic-predictor, a perceptron on the CLIP embedding. Deviations: one hidden layer with
    a nonlinearity instead of four without; a sigmoid keeps the score in the range of its labels.
    """

    def __init__(self, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.embedding_dim, self.hidden_dim = embedding_dim, hidden_dim
        self.layers = nn.Sequential(nn.Linear(embedding_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, 1))

    def forward(self, embedding: Tensor) -> Tensor:
        return 10 * torch.sigmoid(self.layers(embedding)[:, 0])

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `config.json` and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"embedding_dim": self.embedding_dim, "hidden_dim": self.hidden_dim}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({k: v.to(dtype).contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> AestheticHead:
        """The head of a folder that `save` wrote, frozen, in float32."""
        config: dict[str, Any] = json.loads((_there(folder) / "config.json").read_text())
        head = cls(config["embedding_dim"], config["hidden_dim"])
        head.load_state_dict(load_file(folder / "model.safetensors"))  # copies float16 weights into float32 ones
        return head.requires_grad_(False).eval()


def load_ocr(folder: Path) -> ResNetForImageClassification:
    """The recogniser of a folder, frozen, in float32.

    Raises:
        DataError: there is none, or it has another number of logits.
    """
    with _without_progress_bar():
        model = ResNetForImageClassification.from_pretrained(
            _there(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    expected = OCR_SLOTS * len(OCR_CLASSES)
    if model.config.num_labels != expected:
        raise DataError(
            f"{folder}: expected {expected} logits ({OCR_SLOTS} slots of {len(OCR_CLASSES)} classes), "
            f"got {model.config.num_labels}"
        )
    return model.requires_grad_(False).eval()


@torch.no_grad()
def recognise_text(model: ResNetForImageClassification, images: np.ndarray) -> list[str]:
    """What the recogniser reads in pictures uint8 (B, 64, 64, 3): the likeliest class of each slot, from the left."""
    parts = [model(pixel_values=part).logits for part in pixels(images).split(CHUNK)]
    slots = torch.cat(parts).view(len(images), OCR_SLOTS, len(OCR_CLASSES)).argmax(2).tolist()
    return ["".join(OCR_CLASSES[number] for number in row) for row in slots]
