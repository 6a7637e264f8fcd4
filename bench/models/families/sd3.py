"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, latents as they are, one static shift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.family import Config, Family, Sides

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.config.settings import Runtime
    from bench.models.text_condition import TextCondition

T5_LENGTH = 256  # of diffusers' pipeline


class StableDiffusion3(Family):
    """MMDiT of Stable Diffusion 3, arXiv 2403.03206. T5 may be left out."""

    name: ClassVar[str] = "sd3"
    models: ClassVar[str] = "Stable Diffusion 3 and 3.5"
    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    source: ClassVar[str] = "arXiv 2403.03206"
    latents: ClassVar[str] = "16 channels, (z - shift) scale"
    conditioning: ClassVar[str] = "two CLIP towers and T5, pooled"
    time: ClassVar[str] = "1000 s"
    schedule: ClassVar[str] = "static shift"
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    text_length: ClassVar[int] = T5_LENGTH
    options: ClassVar[frozenset[str]] = frozenset({"attention", "compile", "shard", "t5"})

    @classmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """Positions are a table of `pos_embed_max_size` patches a side."""
        pixels, patch = cls.pixels_of(vae), int(transformer["patch_size"])
        unit = pixels * patch
        return Sides(unit, unit * int(transformer["pos_embed_max_size"]), pixels * int(transformer["sample_size"]))

    @classmethod
    def left_out(cls, folder: Path, runtime: Runtime) -> tuple[str, ...]:
        """T5, where it is not asked for or not there."""
        has_t5 = runtime.t5 and (folder / "text_encoder_3").is_dir()
        return () if has_t5 else ("text_encoder_3", "tokenizer_3")

    @classmethod
    def tokenizer_of(cls, folder: Path, text_length: int | None) -> str:
        """T5 reads on where CLIP stops; CLIP's decides where T5 is not there, or left out by a length of 0."""
        has_t5 = text_length != 0 and (folder / "text_encoder_3").is_dir()
        return "tokenizer_3" if has_t5 else "tokenizer"

    @classmethod
    def limit(cls, tokenizer: Any, length: int | None, part: str = "tokenizer") -> int:
        """Of T5 what is asked for, of CLIP what it has positions for."""
        return int(tokenizer.model_max_length) if part == "tokenizer" else length or cls.text_length

    @property
    def has_t5(self) -> bool:
        """Whether T5 takes part; its weights may lie elsewhere for now."""
        return (getattr(self.parts, "tokenizer_3", None) or getattr(self.parts, "text_encoder_3", None)) is not None

    def length_of(self, requested: int | None) -> int:
        """Tokens that T5 reads; none where there is no T5."""
        return requested if requested is not None else T5_LENGTH * self.has_t5

    @property
    def encoding(self) -> str:
        """Whether T5 takes part."""
        return str(self.has_t5)

    def refuse_truncation(self, texts: Sequence[str], length: int) -> None:
        """As `Family.refuse_truncation`."""
        if self.has_t5:
            self._refuse_longer(texts, self.tokens(self.parts.tokenizer_3, texts), length)
        else:
            tokens = self.tokens(self.parts.tokenizer, texts)
            self._refuse_longer(texts, tokens, self.parts.tokenizer_max_length, "shorten it")

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """Embeddings of CLIP, padded to T5's width, before those of T5; pooled ones of both CLIP towers."""
        embeds, _, pooled, _ = self.parts.encode_prompt(
            texts, None, None, device=device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        for e, p in zip(embeds.cpu(), pooled.cpu(), strict=True):
            yield {"embeds": e.clone(), "pooled": p.clone()}

    def blank(self, count: int, length: int) -> TextCondition:
        """As `Family.blank`."""
        import torch

        pooled = torch.zeros(count, self.parts.transformer.config.pooled_projection_dim)
        tokens = int(self.parts.text_encoder.config.max_position_embeddings) + length
        return replace(super().blank(count, tokens), pooled=pooled)

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`."""
        out: Tensor = transformer(
            hidden_states=x, timestep=sigma * 1000.0, encoder_hidden_states=cond.embeds,
            pooled_projections=cond.pooled, return_dict=False,
        )[0]  # fmt: skip
        return out
