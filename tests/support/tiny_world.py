"""The smallest real model: a StableDiffusion3Pipeline folder with random weights, for tests of everything around it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from bench.datasets.scenes.scene import caption_words

LENGTH = 20


def tokenizer_files(folder: Path) -> None:
    """A CLIP vocabulary in which every caption word is one token, and single characters are the rest."""
    characters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789\"',."))
    vocab: dict[str, int] = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for token in [*characters, *(c + "</w>" for c in characters)]:
        vocab.setdefault(token, len(vocab))
    merges: list[str] = []
    for word in sorted(caption_words()):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merge = f"{parts[-2]} {parts[-1]}"
            if merge not in merges:
                merges.append(merge)
            parts[-2:] = [parts[-2] + parts[-1]]
            vocab.setdefault(parts[-1], len(vocab))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def build_pipeline(folder: Path, seed: int = 0) -> Path:
    """Write a pipeline of about 60k weights; returns its folder."""
    torch.manual_seed(seed)
    tokenizer_files(folder / "words")
    tokenizer = CLIPTokenizer(
        str(folder / "words" / "vocab.json"), str(folder / "words" / "merges.txt"), model_max_length=LENGTH,
        pad_token="<|endoftext|>",
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, out_channels=16,
            pos_embed_max_size=8, qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, norm_num_groups=4, layers_per_block=1,
            mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.0,
            shift_factor=0.0,
        ),
        text_encoder=CLIPTextModelWithProjection(text), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text), tokenizer_2=tokenizer,
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    # SD3's last layer begins at zero; a model that answers zero would make most tests trivially pass
    torch.nn.init.normal_(pipeline.transformer.proj_out.weight, std=0.1)
    pipeline.save_pretrained(folder)
    return folder
