"""Pipelines of the shape of a published architecture, with random weights."""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.config.architectures import architecture_named


@contextmanager
def _drawn_in(precision: str) -> Iterator[None]:
    """New weights are of this precision."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, precision))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build_random_pipeline(
    model: str, device: str = "cpu", *, t5: bool = True, seed: int = 0, denoiser: str = "float32",
    frozen: str = "float32",
) -> Any:  # fmt: skip
    """A StableDiffusion3Pipeline of that shape on a device, with random weights, the same for one `seed`.

    `denoiser` and `frozen` are the precisions in which the transformer and all other weights are drawn: T5-XXL in
    float32 alone would take most of a 24 GB card. The tokenizers are of the right classes, but know only characters.

    Raises:
        ConfigError: there is no such architecture.
    """
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    shape = architecture_named(model)
    blocks = len(shape.vae["block_out_channels"])
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.device(device), _drawn_in(frozen):
        torch.manual_seed(seed)
        with _drawn_in(denoiser):
            transformer = SD3Transformer2DModel(**shape.transformer)
        return StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shape.shift),
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
                use_quant_conv=False, use_post_quant_conv=False, **shape.vae,
            ),
            text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**_CLIP_TOKENS, **shape.clip_l)),
            text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**_CLIP_TOKENS, **shape.clip_g)),
            text_encoder_3=T5EncoderModel(T5Config(**shape.t5)) if t5 else None,
            tokenizer=_clip_tokenizer(), tokenizer_2=_clip_tokenizer(), tokenizer_3=_t5_tokenizer() if t5 else None,
        )  # fmt: skip


# Where the published tokenizers have their two special tokens is of no account here; that encoders and tokenizers agree
# is. An eos_token_id other than 2 makes the text encoders pool at that token.
_CLIP_TOKENS: dict[str, Any] = {
    "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
_CHARACTERS = sorted(set(string.ascii_lowercase + string.digits))


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    tokens = ["<|startoftext|>", "<|endoftext|>", *_CHARACTERS, *(f"{c}</w>" for c in _CHARACTERS)]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in _CHARACTERS)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)
