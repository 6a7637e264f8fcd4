"""Pipelines of the shape of a published architecture, with random weights."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
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
    """A pipeline of that shape on a device, with random weights, the same for one `seed`.

    `denoiser` and `frozen` are the precisions in which the transformer and all other weights are drawn: T5-XXL in
    float32 alone would take most of a 24 GB card. The tokenizers are of the right classes, but know only characters.
    Without `t5` the part that its family can do without is left out.

    Raises:
        ConfigError: there is no such architecture.
    """
    import diffusers
    import torch

    shape = architecture_named(model)
    absent = () if t5 else _T5_PARTS.get(shape.pipeline, ())
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    parts: dict[str, Any] = dict.fromkeys(absent)
    with torch.random.fork_rng(devices=gpus), torch.device(device), _drawn_in(frozen):
        torch.manual_seed(seed)
        for name, (kind, numbers) in shape.parts.items():
            if name not in absent:
                with _drawn_in(denoiser if name == "transformer" else frozen):
                    parts[name] = build_part(kind, numbers)
    made = {name: _TOKENIZERS[kind]() for name, kind in shape.tokenizers.items() if name not in absent}
    return getattr(diffusers, shape.pipeline)(**parts, **made)


_T5_PARTS = {"StableDiffusion3Pipeline": ("text_encoder_3", "tokenizer_3")}


def build_part(kind: str, numbers: Mapping[str, Any]) -> Any:
    """A model or scheduler of diffusers, or a model of transformers, by the name of its class and its numbers."""
    import diffusers
    import transformers

    if hasattr(diffusers, kind):
        return getattr(diffusers, kind)(**numbers)
    cls = getattr(transformers, kind)
    return cls(cls.config_class(**numbers))


_CHARACTERS = sorted(set(string.ascii_lowercase + string.digits))


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    tokens = ["<|startoftext|>", "<|endoftext|>", *_CHARACTERS, *(f"{c}</w>" for c in _CHARACTERS)]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in _CHARACTERS)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)


_CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)


def _qwen_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(ByteLevel.alphabet())]
    found = Qwen2Tokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=131072,
        extra_special_tokens=special[1:],
    )  # fmt: skip
    found.chat_template = _CHAT
    return found


_TOKENIZERS: dict[str, Callable[[], Any]] = {"clip": _clip_tokenizer, "t5": _t5_tokenizer, "qwen": _qwen_tokenizer}
