"""Where the published checkpoints of the full-size scorers lie, and how they are read: strictly, and never as a pickle.

A checkpoint `owner/name` of the Hugging Face hub is looked for in `$BENCH_WEIGHTS/owner--name`, then in the hub's own
cache. Nothing is downloaded here.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.api import DataError

if TYPE_CHECKING:
    import torch

LICENCES = {
    "facebook/mask2former-swin-small-coco-instance": "see its model card; the authors' code is under MIT",
    "openai/clip-vit-large-patch14": "MIT, of OpenAI's CLIP repository",
}
# Tables that a model computes by itself (older files hold them all the same), and what only a training loss reads.
_NO_WEIGHTS = re.compile(r"(relative_position_index|position_ids|^criterion\.empty_weight)$")


def located(hub_id: str, file: str | None = None) -> Path:
    """The folder of a checkpoint, or one file of it.

    Raises:
        DataError: it lies in neither place; the message says how to get it, and its licence.
    """
    from huggingface_hub import try_to_load_from_cache

    wanted = file or "config.json"
    own = Path(os.environ.get("BENCH_WEIGHTS", "weights")) / hub_id.replace("/", "--") / wanted
    cached = own if own.is_file() else try_to_load_from_cache(hub_id, wanted)
    if not isinstance(cached, Path | str):
        raise DataError(
            f"expected the weights of {hub_id} as {own} (set BENCH_WEIGHTS) or in the cache of the Hugging Face hub, "
            f"and found neither: get them with `hf download {hub_id}` (licence: "
            f"{LICENCES.get(hub_id, 'see its model card')})"
        )
    return Path(cached) if file else Path(cached).parent


def device() -> torch.device:
    """Where a scorer's networks run: the first GPU, where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(cls: Any, folder: Path) -> Any:
    """A model of transformers, frozen, in float32, on `device()`.

    Raises:
        DataError: the folder holds no safetensors; a weight is missing, has another shape, or is none of the model's.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # it would break the harness' own display
    logging.set_verbosity_error()  # what is missing is told below, in one message
    try:
        model, found = cls.from_pretrained(
            folder, dtype="float32", use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{folder}: expected a {cls.__name__} with safetensors weights: {error}") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
    for kind, sentence in {"missing": "lacks", "unexpected": "has what the model does not know:"}.items():
        keys = sorted(key for key in found[f"{kind}_keys"] if not _NO_WEIGHTS.search(key))
        if keys:
            raise DataError(
                f"{folder}: expected exactly the weights of a {cls.__name__}, but it {sentence} {', '.join(keys[:4])}"
                f"{f' and {len(keys) - 4} more' if len(keys) > 4 else ''}: get the published checkpoint again"
            )
    return model.requires_grad_(False).eval().to(device())


def fingerprint(*places: Path) -> str:
    """16 hex digits of files, and of what is read of folders: configurations, vocabularies and safetensors."""
    digest = hashlib.blake2b(digest_size=8)
    for place in places:
        inside = sorted(path for path in place.glob("*") if path.suffix in (".json", ".txt", ".safetensors"))
        for path in [place] if place.is_file() else inside:
            with path.open("rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
