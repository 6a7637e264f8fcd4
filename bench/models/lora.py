"""LoRA adapters of the transformer, by peft: added for a stage, kept in diffusers' format, folded into the weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from bench.api import ConfigError
from bench.config.settings import Train
from bench.files import appears_whole
from bench.models.families.family import Family

NAME = "default"


@dataclass(frozen=True)
class Adapter:
    """Weights of the adapters by name, float32 in main memory, and peft's configuration of them, JSON-able."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


def add(transformer: Any, train: Train, seed: int, family: Family) -> None:
    """Add fresh adapters, float32 and trainable, that change nothing yet; all other weights stay frozen.

    Raises:
        ConfigError: the denoiser has no module of a name that is asked for.

    Source: LoRA, arXiv 2106.09685; rank, alpha, targets and the Gaussian start as in Flow-GRPO, arXiv 2505.05470.
    """
    _refuse_strange_targets(transformer, train.lora_targets, family)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        transformer.add_adapter(
            LoraConfig(
                r=train.lora_rank, lora_alpha=train.lora_alpha, target_modules=list(train.lora_targets),
                init_lora_weights="gaussian",
            ),
            adapter_name=NAME,
        )  # fmt: skip
    for parameter in transformer.parameters():
        if parameter.requires_grad:  # peft gives them the precision of the weights beneath
            parameter.data = parameter.data.float()


def _refuse_strange_targets(transformer: Any, targets: Sequence[str], family: Family) -> None:
    names = [f".{name}" for name, _ in transformer.named_modules()]
    strange = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if strange:
        raise ConfigError(
            f"train.lora_targets: no module of {type(transformer).__name__} has a name that ends with "
            f"{', '.join(strange)}: say --train.lora_targets {','.join(family.lora_targets)}, or some of them"
        )


def taken(transformer: Any) -> Adapter:
    """A copy of the adapters as they are now."""
    tensors = get_peft_model_state_dict(transformer, adapter_name=NAME)
    config = dataclasses.asdict(transformer.peft_config[NAME])
    kept = {"r": config["r"], "lora_alpha": config["lora_alpha"], "target_modules": sorted(config["target_modules"])}
    return Adapter({name: t.detach().cpu().clone() for name, t in tensors.items()}, kept)


def fold(transformer: Any) -> None:
    """Add the adapters' product to the weights and remove them. In float32, where bfloat16 would lose small updates."""
    transformer.float()
    transformer.fuse_lora()
    transformer.unload_lora()


def save(adapter: Adapter, folder: Path, pipeline: str) -> None:
    """Write what `load_lora_weights` of that class of diffusers' pipelines reads, scale included.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    with appears_whole(folder) as temporary:
        try:
            getattr(diffusers, pipeline).save_lora_weights(
                temporary, transformer_lora_layers=dict(adapter.tensors),
                transformer_lora_adapter_metadata=adapter.config,
            )  # fmt: skip
        except SafetensorError as error:  # how it reports the operating system's refusals
            raise OSError(str(error)) from error
        for path in temporary.glob("*.safetensors"):
            _sort_header(path)


def _sort_header(path: Path) -> None:
    """Put the names in the header of a safetensors file in order: it is written in an order of each process's own."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    names: dict[str, Any] = json.loads(data[8 : 8 + length])
    header = json.dumps(names, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
