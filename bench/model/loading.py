"""The base model: a StableDiffusion3Pipeline of a folder or a fetched hub model, or its shape with random weights.

Nothing is downloaded but by `fetch`, no pickle is opened, and no code of a model's own is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusion3Pipeline
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError

from bench.api import DataError
from bench.configuration.settings import Runtime
from bench.model import architectures
from bench.prompts.hub import WANTED as PROMPT_FILES

# Loading the parts of a pipeline takes no time worth a bar, and the missing torchvision is our choice.
diffusers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
# What diffusers, transformers and safetensors raise on files that are missing, cut short or of another shape.
_BROKEN_BASE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
# The parts of a pipeline; not the same weights once more in one file or in half precision, which lie beside them.
_WANTED = ("model_index.json", "scheduler/*", "tokenizer*/*", "*/config.json", "*/*.safetensors*")
_UNWANTED = ("*.fp16*", "*.msgpack", "*.bin")


def load_pipeline(
    model: str | Path, runtime: Runtime, device: torch.device, weights: str = "stored", *, encoders: bool = True
) -> Any:
    """A StableDiffusion3Pipeline on a device, its weights held as `runtime` says, nothing of it trainable.

    `model` is a folder, the hub id of a fetched model, or the name of one of `architectures.BY_NAME` whose `weights`
    are `random`. Without `encoders` stored text encoders stay where they are, for `load_encoders`.

    Raises:
        DataError: there is no such pipeline, or it is incomplete or damaged.
    """
    if weights == "random":
        pipeline = architectures.build(
            str(model), str(device), t5=runtime.t5, denoiser=runtime.denoiser_weights, frozen=runtime.frozen_weights
        )
    else:
        pipeline = _stored(model, runtime, () if encoders else ENCODERS)
    for name in ("transformer", "vae", *ENCODERS):
        module = getattr(pipeline, name)
        if module is not None:
            held = runtime.denoiser_weights if name == "transformer" else runtime.frozen_weights
            at_rest = "cpu" if runtime.park_encoders and name in ENCODERS else device
            module.to(dtype=getattr(torch, held)).to(at_rest).requires_grad_(False).eval()
    return pipeline


def load_encoders(model: str | Path, runtime: Runtime) -> dict[str, Any]:
    """The text encoders of a stored pipeline by name, in main memory; raises as `load_pipeline` does."""
    pipeline = _stored(model, runtime, ("transformer", "vae"))
    held = {name: getattr(pipeline, name) for name in ENCODERS}
    dtype = getattr(torch, runtime.frozen_weights)
    return {n: m.to(dtype=dtype).requires_grad_(False).eval() for n, m in held.items() if m is not None}


def _stored(model: str | Path, runtime: Runtime, without: Sequence[str] = ()) -> Any:
    folder = locate(model)
    _refuse_empty_tokenizers(folder)
    without_t5 = not runtime.t5 or not (folder / "text_encoder_3").is_dir()
    absent = dict.fromkeys([*without, *(("text_encoder_3", "tokenizer_3") if without_t5 else ())])
    # Read in the precision in which they are held: T5-XXL in float32 takes 18 GiB of main memory on its way
    held = {
        "transformer": getattr(torch, runtime.denoiser_weights), "default": getattr(torch, runtime.frozen_weights),
    }  # fmt: skip
    try:
        # Safetensors only: a pickle runs whatever it holds
        return StableDiffusion3Pipeline.from_pretrained(
            str(folder), dtype=held, use_safetensors=True, local_files_only=True, **absent
        )
    except _BROKEN_BASE as error:
        raise DataError(
            f"{model}: expected a complete StableDiffusion3Pipeline folder with safetensors weights; loading it "
            f"failed: {error}. Restore or fetch it again, or give another one by --model"
        ) from error


def locate(model: str | Path) -> Path:
    """The folder of a model: itself, or where the hub's cache holds a fetched one.

    Raises:
        DataError: there is neither.
    """
    folder = Path(model)
    if folder.exists():
        if not (folder / "model_index.json").is_file():
            raise DataError(f"{folder}: expected a diffusers pipeline folder, but it has no model_index.json")
        return folder
    if not architectures.is_hub_id(str(model)):
        raise DataError(f"{model}: expected a folder in the diffusers format, or a hub id like organisation/name")
    try:
        return Path(snapshot_download(str(model), local_files_only=True, allow_patterns=list(_WANTED)))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise DataError(
            f"{model}: there is no such folder, and no model of that name was fetched from the hub: run "
            f"`python -m bench fetch {model}` first, or give a folder by --model"
        ) from error


def fetch(model: str, endpoint: str | None = None, *, prompts: bool = False) -> Path:
    """Download a model's parts from the Hugging Face hub into its cache; returns the folder.

    With `prompts` it is a data set, whose files of prompts come.

    Raises:
        DataError: it is no hub id, does not exist, or its licence was not accepted; or the hub cannot be reached.
    """
    if not architectures.is_hub_id(model):
        raise DataError(f"{model!r}: expected a hub id like organisation/name")
    if constants.is_offline_mode():
        raise DataError(f"{model}: HF_HUB_OFFLINE is set, so nothing can be fetched: unset it")
    kind, path = ("data set", "datasets/") if prompts else ("model", "")
    page = f"https://huggingface.co/{path}{model}"
    wanted: dict[str, Any] = {"allow_patterns": list(_WANTED), "ignore_patterns": list(_UNWANTED)}
    if prompts:
        wanted = {"allow_patterns": list(PROMPT_FILES), "repo_type": "dataset"}
    try:
        return Path(snapshot_download(model, endpoint=endpoint, **wanted))
    except GatedRepoError as error:
        raise DataError(
            f"{model}: its licence has to be accepted first: log in at {page}, accept it there, make a token at "
            "https://huggingface.co/settings/tokens, and set HF_TOKEN to it"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{model}: the hub has no such {kind}, or shows it only to some: look at {page}, and set HF_TOKEN to a "
            "token that may read it"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise DataError(
            f"{model}: fetching it failed: {error}. Look at the connection and the space left, then give the same "
            "command again: what has arrived is kept"
        ) from error


def _refuse_empty_tokenizers(folder: Path) -> None:
    """A tokenizer without its vocabulary loads without a word, and knows no words.

    Raises:
        DataError: a tokenizer beside a text encoder of this local folder has no vocabulary.
    """
    for encoder in folder.glob("text_encoder*"):
        tokenizer = folder / encoder.name.replace("text_encoder", "tokenizer")
        if not any((tokenizer / name).is_file() for name in ("vocab.json", "tokenizer.json", "spiece.model")):
            raise DataError(
                f"{tokenizer}: expected a tokenizer's vocabulary for {encoder}, but there is none: restore it"
            )
