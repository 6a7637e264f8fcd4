"""The contract of a family: latents, conditioning, passes, guidance and schedule of one kind of diffusers pipeline.

Latents z are (B, C, h, w) everywhere outside; a family packs them within the pass. s is the noise level, v = dz/ds.
This package imports torch and `bench.api` inside functions only, so that `bench list` stays quick.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.config.settings import Experiment, Runtime
    from bench.models.text_condition import TextCondition

Config = Mapping[str, Any]
_OTHER_SCHEDULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")
ATTENTION = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip


def renormalised(v: Tensor, v_c: Tensor) -> Tensor:
    """v (..., D) with the norms of v_c over the last dimension."""
    norm = v.norm(dim=-1, keepdim=True)
    return v * (v_c.norm(dim=-1, keepdim=True) / norm)


def empty_apart(
    texts: list[str], encode: Callable[[list[str], bool], Sequence[dict[str, Tensor]]]
) -> Iterator[dict[str, Tensor]]:
    """Entries of texts by `encode(texts, is_empty)`, which is given the empty ones apart, in a batch of one size."""
    worded = encode(texts, False) if any(texts) else ()
    empty = None if all(texts) else encode([""] * len(texts), True)[0]
    for number, text in enumerate(texts):
        if text:
            yield worded[number]
        else:
            assert empty is not None
            yield empty


def counting_rows(embeds: Tensor, mask: Tensor) -> list[dict[str, Tensor]]:
    """Of each text of a batch the embeddings (l, D) that its mask (B, L) has first, in main memory."""
    return [{"embeds": e[: int(m.sum())].clone()} for e, m in zip(embeds.cpu(), mask.cpu(), strict=True)]


def chat_turns(tokenizer: Any, texts: Sequence[str], *, thinking: bool) -> list[str]:
    """Texts as turns of a user, in the words of the tokenizer's chat template."""
    asked = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    return [tokenizer.apply_chat_template([{"role": "user", "content": text}], **asked) for text in texts]


class Sides(NamedTuple):
    """Sides of pictures in pixels: a multiple of `unit`, at most `largest` if there is a limit; `native` by itself."""

    unit: int
    largest: int | None
    native: int


class Family(abc.ABC):
    """One kind of pipeline. A subclass says in words what it is like, for lists, and in code what it does.

    latents, conditioning, time, guidance, schedule: in words. encoders: the text encoders' names. text_length: tokens
    read of every text where nothing else is asked for. text_width: what the denoiser's configuration calls the width of
    their embeddings. text_batch: texts that the encoders always take at once, so that
    each has the same bits in any company. ragged: texts keep their own lengths, and `TextCondition.lengths` says them.
    lora_targets: ends of the names of the modules that get adapters. blocks: lists of the denoiser's blocks. options:
    what beside plain passes was tried with it: `attention` (a kernel by name), `compile`, `shard`, `t5` (that it can do
    without). default_steps: sampling steps of its pipeline, where the schedule depends on them.
    """

    name: ClassVar[str]
    models: ClassVar[str]
    pipeline: ClassVar[str]
    source: ClassVar[str]
    latents: ClassVar[str]
    conditioning: ClassVar[str]
    time: ClassVar[str]
    guidance: ClassVar[str] = "true"
    schedule: ClassVar[str]
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_length: ClassVar[int]
    text_width: ClassVar[str] = "joint_attention_dim"
    text_batch: ClassVar[int] = 32
    ragged: ClassVar[bool] = False
    lora_targets: ClassVar[tuple[str, ...]] = ATTENTION
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    options: ClassVar[frozenset[str]] = frozenset()
    default_steps: ClassVar[int] = 50

    def __init__(self, pipeline: Any, runtime: Runtime) -> None:
        """`pipeline` holds the parts by diffusers' names, of which text encoders may come and go.

        Raises:
            ConfigError: the runtime asks for what this family does not have, or its scheduler is no plain flow.
        """
        from bench.api import ConfigError

        self.parts = pipeline
        self.runtime = runtime
        refused = {
            "t5 false": not runtime.t5, "compile true": runtime.compile,
            f"attention {runtime.attention}": runtime.attention != "auto",
        }  # fmt: skip
        for asked in (text for text, is_asked in refused.items() if is_asked and text.split()[0] not in self.options):
            raise ConfigError(f"runtime.{asked}: not there for {self.name} ({self.pipeline}); leave it out")
        if runtime.embedded_guidance is not None and not self.embeds_guidance():
            raise ConfigError(f"runtime.embedded_guidance: this {self.pipeline} takes no guidance as an input")
        config = pipeline.scheduler.config
        for setting in _OTHER_SCHEDULES:
            if config.get(setting):
                raise ConfigError(f"the scheduler's {setting}: expected a plain shifted schedule of noise levels")

    def refuse(self, experiment: Experiment) -> None:
        """Raise ConfigError for what an experiment asks for and this model does not have."""
        from bench.api import ConfigError

        if experiment.shard and "shard" not in self.options:
            raise ConfigError(f"--shard true: not there for {self.name} ({self.pipeline}); leave it out")
        scales = (experiment.evaluation.guidance, *experiment.evaluation.grid_guidance)
        for scale in scales:
            if scale != 1.0:
                self.refuse_guidance(scale)

    # Pictures

    @staticmethod
    def pixels_of(vae: Config) -> int:
        """Pixels across one latent, from the VAE's configuration."""
        return int(2 ** (len(vae["block_out_channels"]) - 1))

    @classmethod
    @abc.abstractmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """Sizes of pictures that the model takes, from the configurations of its parts."""

    @property
    def pixels(self) -> int:
        """Pixels across one latent."""
        return self.pixels_of(self.parts.vae.config)

    @property
    def channels(self) -> int:
        """Of a latent."""
        return int(self.parts.transformer.config.in_channels)

    def latent_of(self, size: tuple[int, int] | None, requested: str = "") -> tuple[int, int, int]:
        """(C, h, w) of one latent of pictures of a size (W, H), None being the model's own; `requested` says who asks.

        Raises:
            ConfigError: the transformer takes no pictures of that size.
        """
        from bench.api import ConfigError

        sides = self.sides(self.parts.transformer.config, self.parts.vae.config)
        width, height = size or (sides.native, sides.native)
        if size and any(side % sides.unit or side > (sides.largest or side) for side in size):
            most = f", at most {sides.largest}" if sides.largest else ""
            raise ConfigError(f"{requested}: expected a multiple of {sides.unit}{most}")
        return self.channels, height // self.pixels, width // self.pixels

    def decode(self, vae: Any, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, H, W) in [-1, 1]."""
        config = vae.config
        shift = config.get("shift_factor") or 0.0
        out: Tensor = vae.decode((z / config.scaling_factor + shift).to(vae.dtype), return_dict=False)[0]
        return out

    def encode(self, vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] to mean and standard deviation (B, C, h, w) of their latents, float32."""
        shift, scale = vae.config.get("shift_factor") or 0.0, vae.config.scaling_factor
        posterior = vae.encode(x).latent_dist
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    # Texts

    @classmethod
    @cache
    def bare(cls) -> Any:
        """The pipeline without its parts, for what else it knows."""
        import diffusers

        kind = getattr(diffusers, cls.pipeline)
        return kind(**dict.fromkeys(kind._get_signature_keys(kind)[0]))

    @classmethod
    def left_out(cls, folder: Path, runtime: Runtime) -> tuple[str, ...]:
        """Parts of a pipeline folder that are not loaded."""
        return ()

    @classmethod
    def tokenizer_of(cls, folder: Path, text_length: int | None) -> str:
        """The folder of the tokenizer that says what of a text is read."""
        return "tokenizer"

    @classmethod
    def tokens(cls, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, as many as the encoders would have to read."""
        found: list[list[int]] = tokenizer(list(texts), verbose=False).input_ids
        return found

    @classmethod
    def limit(cls, tokenizer: Any, length: int | None, part: str = "tokenizer") -> int:
        """Tokens, counted as `tokens` does, that are read where `length` (None: `text_length`) is asked for.

        `part` is the tokenizer's name in the pipeline.
        """
        return length or cls.text_length

    def length_of(self, requested: int | None) -> int:
        """Tokens that are read of every text."""
        return self.text_length if requested is None else requested

    @property
    def encoding(self) -> str:
        """What the bits of an encoded text depend on beside the encoders, the length and the batch."""
        return self.name

    def refuse_truncation(self, texts: Sequence[str], length: int) -> None:
        """Raise DataError for a text that the encoders cannot read to its end."""
        tokenizer = self.parts.tokenizer
        self._refuse_longer(texts, self.tokens(tokenizer, texts), self.limit(tokenizer, length))

    @staticmethod
    def _refuse_longer(
        texts: Sequence[str], tokens: Sequence[Sequence[int]], limit: int,
        mend: str = "shorten it, or raise --runtime.text_length",
    ) -> None:  # fmt: skip
        from bench.api import DataError

        for text, ids in zip(texts, tokens, strict=True):
            if len(ids) > limit:
                raise DataError(f"prompt {text!r}: {len(ids)} tokens, but the text encoders read {limit}: {mend}")

    @abc.abstractmethod
    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """`TextCondition.named` of each of `text_batch` texts, without its rows; the empty one is unconditional."""

    def blank(self, count: int, length: int) -> TextCondition:
        """Conditioning of zeros: `count` rows, each as large as that of the longest text."""
        import torch

        from bench.models.text_condition import TextCondition

        width = int(self.parts.transformer.config[self.text_width])
        lengths = (length,) * count if self.ragged else None
        return TextCondition(torch.zeros(count, length, width), lengths=lengths)

    # Passes

    @abc.abstractmethod
    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """Predicted velocity (B, C, h, w) at x (B, C, h, w), sigma (B,) in [0, 1]."""

    @classmethod
    def blocks_of(cls, transformer: Any) -> list[Any]:
        """The denoiser's blocks."""
        return [block for name in cls.blocks for block in getattr(transformer, name)]

    def embeds_guidance(self) -> bool:
        """Whether the denoiser takes a guidance scale as an input."""
        return bool(self.parts.transformer.config.get("guidance_embeds", False))

    def refuse_guidance(self, scale: float) -> None:  # noqa: B027, most models have both branches
        """Raise ConfigError for a guidance scale other than 1 where the model has no unconditional branch."""

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """The guided velocity (B, *S); raises as `refuse_guidance`. Source: arXiv 2207.12598, eq. 6 (there w + 1)."""
        from bench import flow

        self.refuse_guidance(scale)
        return flow.guide(v_u, v_c, scale)

    # Schedule

    def mu(self, latent: tuple[int, ...], steps: int) -> float:
        """The dynamic shift's exponent: linear in the tokens of a picture. Source: diffusers' `calculate_shift`."""
        config, tokens = self.parts.scheduler.config, self.tokens_of(latent)
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        slope = (most - least) / (high - low)
        return float(tokens * slope + (least - slope * low))

    def tokens_of(self, latent: tuple[int, ...]) -> int:
        """Tokens of one latent (C, h, w), patches of 2 x 2."""
        return latent[-2] // 2 * (latent[-1] // 2)

    def shift(self, latent: tuple[int, ...], steps: int | None = None) -> float:
        """Of the schedule of latents (C, h, w), s = shift u / (1 + (shift - 1) u): static, or by size and steps."""
        config = self.parts.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("flow_shift") or config.shift)
        mu = self.mu(latent, steps or self.default_steps)
        return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu

    def sigmas(self, latent: tuple[int, ...], steps: int) -> Tensor:
        """The sampling schedule (steps + 1,) float32 from exactly 1 to exactly 0; the last but one as configured."""
        from bench import flow

        levels = flow.sigma_schedule(steps, self.shift(latent, steps))
        terminal = self.parts.scheduler.config.get("shift_terminal")
        if terminal:  # the last level that is not 0 is brought there, all others in proportion
            levels[1:-1] = 1 - (1 - levels[1:-1]) * (1 - terminal) / (1 - levels[-2])
        return levels
