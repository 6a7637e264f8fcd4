"""SANA: Gemma with a mask, latents of 32 pixels a side, one static shift."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.family import Config, Family, Sides, counting_rows, empty_apart

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.config.settings import Runtime
    from bench.models.text_condition import TextCondition


class Sana(Family):
    """SANA 1.0 and 1.5, arXiv 2410.10629 and 2501.18427. The deep-compression VAE has no posterior: its deviation is 0.

    Deviation: diffusers samples with a multistep solver on the flow's levels; here it is Euler's, as everywhere.
    """

    name: ClassVar[str] = "sana"
    models: ClassVar[str] = "SANA 1.0 and 1.5"
    pipeline: ClassVar[str] = "SanaPipeline"
    source: ClassVar[str] = "arXiv 2501.18427"
    latents: ClassVar[str] = "32 channels of 32 x 32 pixels, z scale"
    conditioning: ClassVar[str] = "Gemma 2, masked; an instruction before every text but the empty one"
    time: ClassVar[str] = "1000 s by the model's timestep_scale"
    schedule: ClassVar[str] = "static flow_shift"
    text_length: ClassVar[int] = 300
    text_width: ClassVar[str] = "caption_channels"
    text_batch: ClassVar[int] = 8
    ragged: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]] = tuple(
        f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")
    )

    def __init__(self, pipeline: Any, runtime: Runtime) -> None:
        from bench.api import ConfigError

        super().__init__(pipeline, runtime)
        kind = pipeline.scheduler.config.get("prediction_type", "flow_prediction")
        if kind != "flow_prediction":
            raise ConfigError(f"the scheduler's prediction_type {kind}: expected flow_prediction, of a rectified flow")

    @staticmethod
    def pixels_of(vae: Config) -> int:
        """Pixels across one latent."""
        return int(2 ** (len(vae["encoder_block_out_channels"]) - 1))

    @classmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """Convolutions tell positions: there is no largest side."""
        pixels = cls.pixels_of(vae)
        return Sides(pixels * int(transformer["patch_size"]), None, pixels * int(transformer["sample_size"]))

    def encode(self, vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Family.encode`; without deviation."""
        latent = vae.encode(x).latent.float() * vae.config.scaling_factor
        return latent, latent.new_zeros(latent.shape)

    @classmethod
    def _instruction(cls) -> list[str]:
        """What diffusers' pipeline puts before every text."""
        return list(inspect.signature(cls.bare().__call__).parameters["complex_human_instruction"].default)

    @classmethod
    def tokens(cls, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Those of the instruction too."""
        before = "\n".join(cls._instruction())
        return super().tokens(tokenizer, [before + text.lower().strip() if text else "" for text in texts])

    @classmethod
    def limit(cls, tokenizer: Any, length: int | None, part: str = "tokenizer") -> int:
        """The instruction is left out after it was read."""
        return super().limit(tokenizer, length) + len(tokenizer.encode("\n".join(cls._instruction()))) - 2

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """The rows of each text that count."""

        def encode(texts: list[str], is_empty: bool) -> list[dict[str, Tensor]]:
            embeds, mask, _, _ = self.parts.encode_prompt(
                texts, False, device=device, max_sequence_length=length,
                complex_human_instruction=None if is_empty else self._instruction(),
            )  # fmt: skip
            return counting_rows(embeds, mask)

        yield from empty_apart(texts, encode)

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`; of a model that learnt variances too, the first half."""
        out: Tensor = transformer(
            x, encoder_hidden_states=cond.embeds, encoder_attention_mask=cond.mask().to(x.dtype),
            timestep=sigma * 1000 * transformer.config.timestep_scale, return_dict=False,
        )[0]  # fmt: skip
        return out[:, : x.shape[1]]
