"""The base model: a pipeline of a folder or a fetched hub model, or its shape with random weights.

No pickle is opened, and no code of a model's own is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from bench.api import DataError
from bench.config.settings import Runtime
from bench.families import family_in, family_of
from bench.hub import locate_model
from bench.models.families.family import Family
from bench.models.random_pipeline import build_random_pipeline

# Loading the parts of a pipeline takes no time worth a bar, and the missing torchvision is our choice.
diffusers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# What diffusers, transformers and safetensors raise on files that are missing, cut short or of another shape.
_BROKEN_BASE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)


def load_pipeline(
    model: str | Path, runtime: Runtime, device: torch.device, weights: str = "stored", *, encoders: bool = True
) -> Any:
    """A pipeline on a device, its weights held as `runtime` says, nothing of it trainable.

    `model` is a folder, the hub id of a fetched model, or the name of one of `bench.config.architectures` whose
    `weights` are `random`. Without `encoders` stored text encoders stay where they are, for `load_encoders`.

    Raises:
        DataError: there is no such pipeline, or it is incomplete or damaged.
    """
    if weights == "random":
        pipeline = build_random_pipeline(
            str(model), str(device), t5=runtime.t5, denoiser=runtime.denoiser_weights, frozen=runtime.frozen_weights
        )
    else:
        pipeline = _stored(model, runtime, keep_encoders=encoders)
    encoder_names = family_class(pipeline).encoders
    for name in ("transformer", "vae", *encoder_names):
        module = getattr(pipeline, name)
        if module is not None:
            held = runtime.denoiser_weights if name == "transformer" else runtime.frozen_weights
            at_rest = "cpu" if runtime.park_encoders and name in encoder_names else device
            module.to(dtype=getattr(torch, held)).to(at_rest).requires_grad_(False).eval()
    return pipeline


def family_class(pipeline: Any) -> type[Family]:
    """The family of a loaded pipeline, or of its parts that say their `pipeline_class`.

    Raises:
        DataError: it is of none.
    """
    found: type[Family] = family_of(getattr(pipeline, "pipeline_class", type(pipeline).__name__))
    return found


def load_encoders(model: str | Path, runtime: Runtime) -> dict[str, Any]:
    """The text encoders of a stored pipeline by name, in main memory; raises as `load_pipeline` does."""
    pipeline = _stored(model, runtime, ("transformer", "vae"))
    held = {name: getattr(pipeline, name) for name in family_class(pipeline).encoders}
    dtype = getattr(torch, runtime.frozen_weights)
    return {n: m.to(dtype=dtype).requires_grad_(False).eval() for n, m in held.items() if m is not None}


def _stored(model: str | Path, runtime: Runtime, without: Sequence[str] = (), *, keep_encoders: bool = True) -> Any:
    folder = locate_model(model)
    family = family_in(folder)
    _refuse_empty_tokenizers(folder)
    absent = dict.fromkeys([*without, *(() if keep_encoders else family.encoders), *family.left_out(folder, runtime)])
    # Read in the precision in which they are held: T5-XXL in float32 takes 18 GiB of main memory on its way
    held = {
        "transformer": getattr(torch, runtime.denoiser_weights), "default": getattr(torch, runtime.frozen_weights),
    }  # fmt: skip
    try:
        # Safetensors only: a pickle runs whatever it holds
        return getattr(diffusers, family.pipeline).from_pretrained(
            str(folder), dtype=held, use_safetensors=True, local_files_only=True, **absent
        )
    except _BROKEN_BASE as error:
        raise DataError(
            f"{model}: expected a complete {family.pipeline} folder with safetensors weights; loading it "
            f"failed: {error}. Restore or fetch it again, or give another one by --model"
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
