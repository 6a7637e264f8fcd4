"""FLUX.2 klein: layers of Qwen3, patches of the VAE's latents under its batch norm, a shift by tokens and steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.family import ATTENTION, Config, Family, Sides, chat_turns

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.models.text_condition import TextCondition


_NATIVE = 128  # latents of the VAE of a side, as diffusers' pipeline has it


class Flux2Klein(Family):
    """FLUX.2 klein, base and distilled. A latent here is a patch of 2 x 2 of the VAE's, as the denoiser takes it.

    The distilled model has no unconditional branch: guidance scales other than 1 are refused.
    """

    name: ClassVar[str] = "flux2-klein"
    models: ClassVar[str] = "FLUX.2 klein and klein-base"
    pipeline: ClassVar[str] = "Flux2KleinPipeline"
    source: ClassVar[str] = "github.com/black-forest-labs/flux2"
    latents: ClassVar[str] = "128 channels, (z - mean) / deviation of the VAE's batch norm"
    conditioning: ClassVar[str] = "three layers of Qwen3"
    time: ClassVar[str] = "s"
    guidance: ClassVar[str] = "true in base; none in the distilled model"
    schedule: ClassVar[str] = "shift by tokens and steps (in training as for 50)"
    text_length: ClassVar[int] = 512
    text_batch: ClassVar[int] = 8
    lora_targets: ClassVar[tuple[str, ...]] = (*ATTENTION, "attn.to_qkv_mlp_proj")
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")

    @staticmethod
    def pixels_of(vae: Config) -> int:
        """Pixels across one patch of the VAE's latents."""
        return int(2 ** len(vae["block_out_channels"]))

    @classmethod
    def sides(cls, transformer: Config, vae: Config) -> Sides:
        """Positions are rotary: there is no largest side."""
        pixels = cls.pixels_of(vae)
        return Sides(pixels, None, _NATIVE * pixels // 2)

    @staticmethod
    def _moments(vae: Any) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, 1, 1) float32 of patches."""
        mean, variance = vae.bn.running_mean.float(), vae.bn.running_var.float()
        return mean[:, None, None], (variance + vae.config.batch_norm_eps).sqrt()[:, None, None]

    def decode(self, vae: Any, z: Tensor) -> Tensor:
        """As `Family.decode`."""
        import torch

        mean, std = self._moments(vae)
        out: Tensor = vae.decode(torch.pixel_shuffle(z * std + mean, 2).to(vae.dtype), return_dict=False)[0]
        return out

    def encode(self, vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Family.encode`."""
        import torch

        posterior, (mean, std) = vae.encode(x).latent_dist, self._moments(vae)
        patched = torch.pixel_unshuffle(posterior.mean.float(), 2)
        return (patched - mean) / std, torch.pixel_unshuffle(posterior.std.float(), 2) / std

    @classmethod
    def tokens(cls, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Those of the chat's template too."""
        return super().tokens(tokenizer, chat_turns(tokenizer, texts, thinking=False))

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """All rows count, padding too."""
        embeds, _ = self.parts.encode_prompt(texts, device, max_sequence_length=length)
        for e in embeds.cpu():
            yield {"embeds": e.clone()}

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`."""
        import torch

        b, _, h, w = x.shape

        def places(*sizes: int) -> Tensor:
            return torch.cartesian_prod(*(torch.arange(n, device=x.device) for n in sizes)).expand(b, -1, -1)

        out: Tensor = transformer(
            hidden_states=x.flatten(2).transpose(1, 2), timestep=sigma, guidance=None,
            encoder_hidden_states=cond.embeds, txt_ids=places(1, 1, 1, cond.embeds.shape[1]),
            img_ids=places(1, h, w, 1), return_dict=False,
        )[0]  # fmt: skip
        return out.transpose(1, 2).reshape(x.shape)

    def refuse_guidance(self, scale: float) -> None:
        """As `Family.refuse_guidance`: the distilled model has none."""
        from bench.api import ConfigError

        if self.parts.config.get("is_distilled"):
            raise ConfigError(
                f"guidance scale {scale}: this {self.pipeline} is distilled and has no unconditional branch; say "
                "--evaluation.guidance 1, the same for the grid and the methods, or train its base"
            )

    def tokens_of(self, latent: tuple[int, ...]) -> int:
        """A latent is a token."""
        return latent[-2] * latent[-1]

    def mu(self, latent: tuple[int, ...], steps: int) -> float:
        """By diffusers' own function for this pipeline."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return float(compute_empirical_mu(self.tokens_of(latent), steps))
