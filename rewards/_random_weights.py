"""Checkpoints in the published formats with random weights, of real size or shrunken: to time scorers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from bench.datasets.prompts.geneval import CLASSES
from bench.scoring.workers.pinned_environment import PinnedEnvironment
from bench.scoring.workers.worker_process import WorkerProcess
from rewards import aesthetic, geneval, imagereward
from rewards._weights import PublishedCheckpoint
from rewards.clipscore import OPENAI_CLIP
from rewards.hpsv2 import CONFIG, HPSv2
from rewards.pickscore import PickScore

Numbers = dict[str, Any]

_VIT_L: Numbers = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "hidden_act": "quick_gelu", "vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": 768,
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "hidden_act": "quick_gelu", "image_size": 224, "patch_size": 14, "projection_dim": 768,
    },
}  # fmt: skip
_SMALL: Numbers = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "gelu",
    "projection_dim": 16,
}  # fmt: skip
_SMALL_CLIP: Numbers = {
    "projection_dim": 16,
    "text_config": {**_SMALL, "vocab_size": 520, "max_position_embeddings": 77, "eos_token_id": 519},
    "vision_config": {**_SMALL, "image_size": 28, "patch_size": 14},
}
_SWIN_SMALL: Numbers = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
_BERT: Numbers = {
    "architectures": ["BertModel"], "model_type": "bert", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "num_attention_heads": 12, "num_hidden_layers": 12,
    "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": 30524, "encoder_width": 768, "add_cross_attention": True,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """The numbers of each network, in the words of its configuration."""

    vit_l: Numbers = field(default_factory=lambda: _VIT_L)
    vit_h: Numbers = field(default_factory=lambda: CONFIG)
    swin: Numbers = field(default_factory=lambda: _SWIN_SMALL)
    detector: Numbers = field(default_factory=dict)  # Mask2FormerConfig's defaults are the published ones
    bert: Numbers = field(default_factory=lambda: _BERT)


REAL = Sizes()
SHRUNKEN = Sizes(
    vit_l=_SMALL_CLIP, vit_h=_SMALL_CLIP,
    swin={"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4},
    detector={
        "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16,
        "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16, "num_queries": 8,
    },
    bert={**_BERT, "intermediate_size": 64, "num_hidden_layers": 1},
)  # fmt: skip


def write_random_weights(scorer: str, *, shrunken: bool = False) -> None:
    """As `Reward.random_weights` has it."""
    write_checkpoint(scorer, SHRUNKEN if shrunken else REAL)


def write_checkpoint(scorer: str, sizes: Sizes) -> None:
    """Write all that the scorer reads, in float16, where it looks for it first (`$BENCH_WEIGHTS`).

    Raises:
        CheckpointMissing: its network is told by an environment of its own, which has not been built.
    """
    for part in _PARTS[scorer]:
        part(sizes)


def _clip(published: PublishedCheckpoint, size: str, sizes: Sizes) -> None:
    config: Numbers = getattr(sizes, size)
    folder = _folder(published)
    _write_json(folder / "config.json", config)
    _write_words(folder, config["text_config"]["vocab_size"])
    _save(CLIPModel(CLIPConfig(**config)).state_dict(), folder / "model.safetensors")


def _aesthetic_head(sizes: Sizes) -> None:
    network = aesthetic.head(sizes.vit_l["projection_dim"])
    _save(network.state_dict(), _folder(aesthetic.HEAD) / aesthetic.HEAD.files[0])


def _detector(sizes: Sizes) -> None:
    backbone: Numbers = {"out_features": ["stage1", "stage2", "stage3", "stage4"], **sizes.swin}
    numbers: Numbers = {"backbone_config": SwinConfig(**backbone), "num_labels": len(CLASSES), **sizes.detector}
    config = Mask2FormerConfig(**numbers)
    folder = _folder(geneval.DETECTOR)
    Mask2FormerForUniversalSegmentation(config).half().save_pretrained(folder)


def _imagereward(sizes: Sizes) -> None:
    environment = PinnedEnvironment("imagereward", imagereward.PINS)
    python = environment.python()
    folder, words = _folder(imagereward.CHECKPOINT), _folder(imagereward.VOCABULARY)
    _write_json(folder / "med_config.json", sizes.bert)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    filler = (f"word{number}" for number in range(sizes.bert["vocab_size"] - 2 - len(special)))  # two more are added
    (words / "vocab.txt").write_text("\n".join([*special, *filler]), encoding="utf-8")
    process = WorkerProcess("imagereward", python, environment.worker)
    shapes = process.call(
        "build", configuration=str(folder / "med_config.json"), vocabulary=str(words), device="cpu", threads=1
    )
    process.close()
    tensors = {name: 0.02 * torch.randn(shape) for name, shape in shapes.items() if not name.endswith("position_ids")}
    for name, tensor in tensors.items():
        if "norm" in name.lower() and name.endswith("weight"):
            tensor += 1
    _save(tensors, folder / imagereward.CHECKPOINT.files[0])


def _write_words(folder: Path, count: int) -> None:
    """`vocab.json` of so many tokens and `merges.txt`: 256 bytes, the same at the end of a word, and fillers."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in kept] + [chr(256 + place) for place in range(256 - len(kept))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re"]
    words += [f"word{number}" for number in range(count - 2 - len(words))]
    _write_json(folder / "vocab.json", {w: n for n, w in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])})
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n", encoding="utf-8")


def _folder(published: PublishedCheckpoint) -> Path:
    published.folder.mkdir(parents=True, exist_ok=True)
    return published.folder


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _write_json(path: Path, content: Numbers) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


_OPENAI = partial(_clip, OPENAI_CLIP, "vit_l")
_PARTS: dict[str, tuple[Callable[[Sizes], None], ...]] = {
    "clipscore": (_OPENAI,), "pickscore": (partial(_clip, PickScore.checkpoint, "vit_h"),),
    "hpsv2": (partial(_clip, HPSv2.checkpoint, "vit_h"),), "aesthetic": (_OPENAI, _aesthetic_head),
    "imagereward": (_imagereward,), "ocr": (), "geneval": (_OPENAI, _detector),
}  # fmt: skip
SCORERS = tuple(_PARTS)
