"""Lumina 2: Gemma with a mask, time from noise to data, guidance renormalised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.family import Config, Family, Sides, counting_rows, empty_apart, renormalised

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.models.text_condition import TextCondition


class Lumina2(Family):
    """Lumina-Image 2.0, arXiv 2503.21758. Of guidance that is cut off early (`cfg_trunc_ratio`) nothing is done."""

    name: ClassVar[str] = "lumina2"
    models: ClassVar[str] = "Lumina-Image 2.0"
    pipeline: ClassVar[str] = "Lumina2Pipeline"
    source: ClassVar[str] = "arXiv 2503.21758"
    latents: ClassVar[str] = "16 channels, (z - shift) scale"
    conditioning: ClassVar[str] = "Gemma 2, masked; a system prompt before every text but the empty one"
    time: ClassVar[str] = "1 - s, output -v"
    guidance: ClassVar[str] = "true, then the norms of v_c along each row"
    schedule: ClassVar[str] = "static shift, or one of the number of channels"
    text_length: ClassVar[int] = 256
    text_width: ClassVar[str] = "cap_feat_dim"
    text_batch: ClassVar[int] = 8
    ragged: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]] = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
    blocks: ClassVar[tuple[str, ...]] = ("noise_refiner", "context_refiner", "layers")

    @classmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """Positions are rotary, of tables as long as `axes_lens`."""
        unit = cls.pixels_of(vae) * int(transformer["patch_size"])
        return Sides(
            unit, unit * min(transformer["axes_lens"][1:]), cls.pixels_of(vae) * int(transformer["sample_size"])
        )

    @classmethod
    def tokens(cls, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Those of the system prompt too."""
        return super().tokens(tokenizer, [cls._worded(text) for text in texts])

    @classmethod
    def _worded(cls, text: str) -> str:
        return f"{cls.bare().system_prompt} <Prompt Start> {text}" if text else ""

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """The rows of each text that count."""

        def encode(texts: list[str], is_empty: bool) -> list[dict[str, Tensor]]:
            embeds, mask = self.parts._get_gemma_prompt_embeds([self._worded(t) for t in texts], device, length)
            return counting_rows(embeds, mask)

        yield from empty_apart(texts, encode)

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`."""
        assert cond.lengths is not None
        mask, lengths = cond.mask(), list(cond.lengths)
        # The denoiser adds it up to lengths on the host, and would wait for the device; they are known there
        mask.sum = lambda dim: SimpleNamespace(tolist=lambda: lengths)  # type: ignore[method-assign,assignment]
        out: Tensor = transformer(
            hidden_states=x, timestep=1 - sigma, encoder_hidden_states=cond.embeds, encoder_attention_mask=mask,
            return_dict=False,
        )[0]  # fmt: skip
        return -out

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """As `Family.guide`, then with the norms of v_c over the last dimension, as diffusers' pipeline has it."""
        return renormalised(super().guide(v_u, v_c, scale), v_c)

    def tokens_of(self, latent: tuple[int, ...]) -> int:
        """diffusers' pipeline takes the channels for tokens."""
        return latent[0]
