"""Z-Image: Qwen3 with ragged texts, time from noise to data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.family import Config, Family, Sides, chat_turns

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.models.text_condition import TextCondition


_NATIVE = 1024  # pixels of a side, as diffusers' pipeline has it


class ZImage(Family):
    """Z-Image and Z-Image-Turbo, arXiv 2511.22699. Scales are as usual: one more than the w of diffusers' pipeline.

    Of guidance that is renormalised or cut off early (`cfg_normalization`, `cfg_truncation`) nothing is done, as there
    by default.
    """

    name: ClassVar[str] = "z-image"
    models: ClassVar[str] = "Z-Image"
    pipeline: ClassVar[str] = "ZImagePipeline"
    source: ClassVar[str] = "arXiv 2511.22699"
    latents: ClassVar[str] = "16 channels, (z - shift) scale"
    conditioning: ClassVar[str] = "Qwen3, ragged"
    time: ClassVar[str] = "1 - s, output -v"
    guidance: ClassVar[str] = "true; diffusers' scale is one less"
    schedule: ClassVar[str] = "static shift, or by tokens"
    text_length: ClassVar[int] = 512
    text_width: ClassVar[str] = "cap_feat_dim"
    text_batch: ClassVar[int] = 8
    ragged: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]] = tuple(
        f"attention.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")
    )
    blocks: ClassVar[tuple[str, ...]] = ("noise_refiner", "context_refiner", "layers")

    @classmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """Positions are rotary, of tables as long as `axes_lens`."""
        unit = 2 * cls.pixels_of(vae)
        return Sides(unit, unit * min(transformer["axes_lens"][1:]), _NATIVE)

    @classmethod
    def tokens(cls, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Those of the chat's template too."""
        return super().tokens(tokenizer, chat_turns(tokenizer, texts, thinking=True))

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """The rows of each text that count."""
        rows, _ = self.parts.encode_prompt(
            list(texts), device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        for e in rows:
            yield {"embeds": e.cpu().clone()}

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`."""
        import torch

        assert cond.lengths is not None
        texts = [rows[:count] for rows, count in zip(cond.embeds, cond.lengths, strict=True)]
        out = transformer(list(x.unsqueeze(2)), 1 - sigma, texts, return_dict=False)[0]
        return -torch.stack(out).squeeze(2)
