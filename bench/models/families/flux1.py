"""FLUX.1: T5 and a pooled CLIP, packed latents; guidance is an input of the dev model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.packing import PackedFamily, pack, unpack

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.models.text_condition import TextCondition


GUIDANCE = 3.5  # of diffusers' pipeline


class Flux1(PackedFamily):
    """FLUX.1 dev and schnell. dev was distilled at a guidance scale that it takes as an input, in every pass.

    Guidance between two branches comes on top of it: a scale of 1, the conditional branch alone, is dev as published.
    """

    name: ClassVar[str] = "flux1"
    models: ClassVar[str] = "FLUX.1 dev and schnell"
    pipeline: ClassVar[str] = "FluxPipeline"
    source: ClassVar[str] = "github.com/black-forest-labs/flux"
    latents: ClassVar[str] = "16 channels, packed 2 x 2, (z - shift) scale"
    conditioning: ClassVar[str] = "T5, pooled CLIP"
    time: ClassVar[str] = "s"
    guidance: ClassVar[str] = "embedded in dev (3.5, runtime.embedded_guidance); true on top, 1 is none"
    schedule: ClassVar[str] = "shift by tokens"
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    text_length: ClassVar[int] = 512
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")

    @classmethod
    def tokenizer_of(cls, folder: Path, text_length: int | None) -> str:
        """T5's: it reads on where CLIP stops."""
        return "tokenizer_2"

    def refuse_truncation(self, texts: Sequence[str], length: int) -> None:
        """As `Family.refuse_truncation`."""
        self._refuse_longer(texts, self.tokens(self.parts.tokenizer_2, texts), length)

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """All rows count, padding too."""
        embeds, pooled, _ = self.parts.encode_prompt(texts, None, device=device, max_sequence_length=length)
        for e, p in zip(embeds.cpu(), pooled.cpu(), strict=True):
            yield {"embeds": e.clone(), "pooled": p.clone()}

    def blank(self, count: int, length: int) -> TextCondition:
        """As `Family.blank`."""
        import torch

        pooled = torch.zeros(count, self.parts.transformer.config.pooled_projection_dim)
        return replace(super().blank(count, length), pooled=pooled)

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`."""
        import torch

        b, _, h, w = x.shape
        places = torch.cartesian_prod(*(torch.arange(n, device=x.device) for n in (1, h // 2, w // 2))).to(x.dtype)
        asked = self.runtime.embedded_guidance
        scale = GUIDANCE if asked is None else asked
        out: Tensor = transformer(
            hidden_states=pack(x), timestep=sigma, guidance=x.new_full((b,), scale) if self.embeds_guidance() else None,
            encoder_hidden_states=cond.embeds, pooled_projections=cond.pooled,
            txt_ids=x.new_zeros(cond.embeds.shape[1], 3), img_ids=places, return_dict=False,
        )[0]  # fmt: skip
        return unpack(out, h, w)
