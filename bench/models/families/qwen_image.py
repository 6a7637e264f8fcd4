"""Qwen-Image: Qwen2.5-VL with a mask, packed latents, guidance renormalised by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.families.family import Config, renormalised
from bench.models.families.packing import PackedFamily, pack, unpack

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.models.text_condition import TextCondition


class QwenImage(PackedFamily):
    """Qwen-Image, arXiv 2508.02324. Its VAE is one of videos, of which a picture is the first frame.

    Texts are encoded one by one: the encoder pads a batch to its longest text, and bits would differ by company.
    """

    name: ClassVar[str] = "qwen-image"
    models: ClassVar[str] = "Qwen-Image"
    pipeline: ClassVar[str] = "QwenImagePipeline"
    source: ClassVar[str] = "arXiv 2508.02324"
    latents: ClassVar[str] = "16 channels, packed 2 x 2, mean and deviation of each channel"
    conditioning: ClassVar[str] = "Qwen2.5-VL, masked"
    time: ClassVar[str] = "s"
    guidance: ClassVar[str] = "true, then the norm of v_c in each token"
    schedule: ClassVar[str] = "shift by tokens, stretched to its last level"
    text_length: ClassVar[int] = 512
    text_batch: ClassVar[int] = 1
    ragged: ClassVar[bool] = True

    @staticmethod
    def pixels_of(vae: Config) -> int:
        """Pixels across one latent."""
        return int(2 ** len(vae["temperal_downsample"]))

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, 1, 1, 1) of the VAE's latents."""
        config = self.parts.vae.config
        mean, std = (like.new_tensor(list(config[f"latents_{name}"])).reshape(-1, 1, 1, 1) for name in ("mean", "std"))
        return mean, std

    def decode(self, vae: Any, z: Tensor) -> Tensor:
        """As `Family.decode`."""
        mean, std = self._moments(z)
        out: Tensor = vae.decode((z.unsqueeze(2) * std + mean).to(vae.dtype), return_dict=False)[0][:, :, 0]
        return out

    def encode(self, vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Family.encode`."""
        posterior = vae.encode(x.unsqueeze(2)).latent_dist
        mean, std = self._moments(posterior.mean.float())
        return ((posterior.mean.float() - mean) / std)[:, :, 0], (posterior.std.float() / std)[:, :, 0]

    @classmethod
    def tokens(cls, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Those of the template too."""
        return super().tokens(tokenizer, [cls.bare().prompt_template_encode.format(text) for text in texts])

    @classmethod
    def limit(cls, tokenizer: Any, length: int | None, part: str = "tokenizer") -> int:
        """The template's beginning is left out after it was read."""
        return super().limit(tokenizer, length) + int(cls.bare().prompt_template_encode_start_idx)

    def encode_texts(self, texts: list[str], length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """The rows of each text that count."""
        for text in texts:
            embeds, _ = self.parts.encode_prompt([text], device, max_sequence_length=length)
            yield {"embeds": embeds[0].cpu().clone()}

    def velocity(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `Family.velocity`."""
        assert cond.lengths is not None
        b, _, h, w = x.shape
        is_full = set(cond.lengths) == {cond.embeds.shape[1]}
        out: Tensor = transformer(
            hidden_states=pack(x), timestep=sigma, encoder_hidden_states=cond.embeds,
            encoder_hidden_states_mask=None if is_full else cond.mask(), img_shapes=[[(1, h // 2, w // 2)]] * b,
            return_dict=False,
        )[0]  # fmt: skip
        return unpack(out, h, w)

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """As `Family.guide`, then with the norm of v_c in each token, as diffusers' pipeline has it."""
        h, w = v_c.shape[-2:]
        return unpack(renormalised(pack(super().guide(v_u, v_c, scale)), pack(v_c)), h, w)
