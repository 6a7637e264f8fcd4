"""AuraFlow: Pile-T5 with its padding zeroed, four channels, one static shift."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.family import ATTENTION, Config, Family, Sides

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.models.text_condition import TextCondition


class AuraFlow(Family):
    """AuraFlow 0.1 to 0.3."""

    name: ClassVar[str] = "auraflow"
    models: ClassVar[str] = "AuraFlow"
    pipeline: ClassVar[str] = "AuraFlowPipeline"
    source: ClassVar[str] = "huggingface.co/fal/AuraFlow-v0.3"
    latents: ClassVar[str] = "4 channels, z scale"
    conditioning: ClassVar[str] = "T5, padding zeroed"
    time: ClassVar[str] = "s"
    schedule: ClassVar[str] = "static shift"
    text_length: ClassVar[int] = 256
    lora_targets: ClassVar[tuple[str, ...]] = ATTENTION
    blocks: ClassVar[tuple[str, ...]] = ("joint_transformer_blocks", "single_transformer_blocks")

    @classmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """Positions are a square table of `pos_embed_max_size` patches in all."""
        pixels, patch = cls.pixels_of(vae), int(transformer["patch_size"])
        most = int(int(transformer["pos_embed_max_size"]) ** 0.5)
        return Sides(pixels * patch, pixels * patch * most, pixels * int(transformer["sample_size"]))

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """All rows count: the denoiser gets no mask."""
        embeds = self.parts.encode_prompt(
            texts, do_classifier_free_guidance=False, device=device, max_sequence_length=length
        )[0]
        for e in embeds.cpu():
            yield {"embeds": e.clone()}

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`."""
        out: Tensor = transformer(x, encoder_hidden_states=cond.embeds, timestep=sigma, return_dict=False)[0]
        return out
