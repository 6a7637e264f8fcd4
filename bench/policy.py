"""The policy: velocity field, conditioning and decoder of a diffusers StableDiffusion3Pipeline.

The embedded miniature and SD3.5-Medium are the same classes, loaded by the same call; only the folder differs.
Arithmetic outside the transformer is float32 whatever the transformer's precision.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusion3Pipeline
from diffusers.models.transformers import SD3Transformer2DModel
from peft import LoraConfig
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import flow
from bench.api import Condition, ConfigError, DataError
from bench.files import appears_whole
from bench.settings import Train

# Loading the parts of a pipeline takes no time worth a bar, and the missing torchvision is our choice.
diffusers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# Texts are always encoded in batches of this size: matrix products of another shape may round differently, and a
# resumed run, which meets its texts in another grouping, has to see the same bits.
TEXT_BATCH = 32


# What diffusers, transformers and safetensors raise on files that are missing, cut short or of another shape.
_BROKEN_BASE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class TextCondition:
    """Text embeddings (B, L, D) and pooled embeddings (B, P), float32, as SD3's transformer takes them."""

    embeds: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, index: Any) -> TextCondition:
        return TextCondition(self.embeds[index], self.pooled[index])

    @staticmethod
    def cat(parts: Sequence[TextCondition]) -> TextCondition:
        """One batch of several."""
        return TextCondition(torch.cat([p.embeds for p in parts]), torch.cat([p.pooled for p in parts]))

    def expand(self, count: int) -> TextCondition:
        """A single row repeated `count` times, without copying."""
        return TextCondition(self.embeds.expand(count, -1, -1), self.pooled.expand(count, -1))


@dataclass(frozen=True)
class PassFlops:
    """Measured FLOPs of one sample: denoiser forward, its backward to all trained weights, the same where gradient goes
    on into the state, the reference's forward (without adapters), VAE decoding."""

    forward: float
    backward: float
    backward_through: float
    reference: float
    decode: float

    def times(self, factor: int) -> PassFlops:
        """Those of so many samples."""
        return PassFlops(*(factor * flops for flops in astuple(self)))


class VelocityField(Protocol):
    """A model of the velocity."""

    def velocity(self, x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        """Predicted velocity (B, *S) float32 at x (B, *S), sigma (B,) in [0, 1]."""


class Reference(VelocityField, Protocol):
    """What an environment needs of the frozen model at stage entry."""

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name, which have to stay as they are."""


class Policy(VelocityField, Protocol):
    """What an environment needs of its policy: SD3 pipelines and the closed-form mixture both are one.

    `shift` is that of the noise schedule.
    """

    device: torch.device
    shift: float

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """S, the shape of one clean latent."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Text to conditioning; the empty text is the unconditional one."""

    def null(self, cond: Any) -> Condition:
        """The empty prompt's conditioning, as many rows as `cond` has."""

    def sigmas(self, steps: int) -> Tensor:
        """The sampling schedule (steps + 1,) float32, from 1 down to exactly 0."""

    def decode(self, z0: Tensor) -> np.ndarray:
        """Latents (B, *S) to pictures uint8 (B, H, W, 3)."""


class SD3Policy:
    """A rectified-flow model in the SD3 family.

    Attributes:
        latent_shape: (C, h, w) of one clean latent.
        shift: the scheduler's shift of the noise schedule.
        transformer: the part that is trained; everything else stays frozen.
    """

    def __init__(self, pipeline: Any, *, precision: str = "float32", text_length: int = 256) -> None:
        self.pipeline = pipeline  # a StableDiffusion3Pipeline, whose parts type checkers cannot see
        self.transformer: SD3Transformer2DModel = pipeline.transformer
        self.device = torch.device(self.transformer.device)
        self.precision = precision
        config = self.transformer.config
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self.shift = float(self.pipeline.scheduler.config.shift)
        self._text_length = text_length if self.pipeline.text_encoder_3 is not None else 0
        self._texts: dict[str, TextCondition] = {}
        self._lora = False
        parts = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
        for module in (getattr(pipeline, part) for part in parts):
            if module is not None:
                module.requires_grad_(False).eval()
        self.transformer.requires_grad_(False).eval()
        # Weights mapped from a file lie as the file has them; other alignments take other kernels, which round
        # differently, and a copy of the model would not be the model to the last bit.
        for parameter in self.transformer.parameters():
            parameter.data = parameter.data.clone()

    @classmethod
    def load(cls, path: str | Path, *, precision: str = "float32", device: str = "cpu") -> SD3Policy:
        """Load a StableDiffusion3Pipeline folder, or the hub id of a downloaded one, with float32 weights.

        Raises:
            DataError: there is no such pipeline.
        """
        folder = Path(path)
        index = folder / "model_index.json"
        if folder.exists() and not index.is_file():
            raise DataError(f"{folder}: expected a diffusers pipeline folder, but it has no model_index.json")
        _refuse_empty_tokenizers(folder)
        without_t5 = folder.exists() and not (folder / "text_encoder_3").is_dir()
        absent = {"text_encoder_3": None, "tokenizer_3": None} if without_t5 else {}
        try:
            # Safetensors only: a pickle runs whatever it holds
            pipeline = StableDiffusion3Pipeline.from_pretrained(
                str(path), dtype=torch.float32, use_safetensors=True, local_files_only=True, **absent
            )
        except _BROKEN_BASE as error:
            raise DataError(
                f"{path}: expected a complete StableDiffusion3Pipeline folder with safetensors weights; loading it "
                f"failed: {error}. Restore or download it again, or give another one by --model"
            ) from error
        return cls(pipeline.to(device), precision=precision)

    # Conditioning

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Prompts to conditioning by the pipeline's own `encode_prompt`; each text is encoded once and kept.

        Raises:
            DataError: a prompt is longer than the text encoders read; nothing is truncated silently.
        """
        missing = sorted({p for p in prompts if p not in self._texts})
        for start in range(0, len(missing), TEXT_BATCH):
            chunk = missing[start : start + TEXT_BATCH]
            self._refuse_truncation(chunk)
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                chunk + [""] * (TEXT_BATCH - len(chunk)), None, None, device=self.device,
                do_classifier_free_guidance=False, max_sequence_length=self._text_length,
            )  # fmt: skip
            for text, e, p in zip(chunk, embeds.float(), pooled.float(), strict=False):
                self._texts[text] = TextCondition(e[None], p[None])
        return TextCondition.cat([self._texts[p] for p in prompts])

    def _refuse_truncation(self, prompts: Sequence[str]) -> None:
        tokenizer = self.pipeline.tokenizer
        limit = self.pipeline.tokenizer_max_length
        if self._text_length:  # T5 reads on where CLIP stops, as in SD3
            return
        for text, ids in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
            if len(ids) > limit:
                raise DataError(f"prompt {text!r}: {len(ids)} tokens, but the text encoders read {limit}: shorten it")

    def null(self, cond: TextCondition) -> TextCondition:
        """The empty prompt's conditioning, as many rows as `cond` has."""
        return self.encode([""]).expand(len(cond))

    # Velocity

    def velocity(self, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """Predicted velocity (B, *S) float32 at x (B, *S), sigma (B,) in [0, 1]."""
        return self._run(self.transformer, x, sigma, cond)

    def guided_velocity(self, x: Tensor, sigma: Tensor, cond: TextCondition, scale: float) -> Tensor:
        """v_u + scale (v_c - v_u); one pass where scale is 1. Source: arXiv 2207.12598, eq. 6."""
        return guided(self.velocity, self.null, x, sigma, cond, scale)

    def _run(self, transformer: SD3Transformer2DModel, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            out = transformer(
                hidden_states=x, timestep=sigma * 1000.0, encoder_hidden_states=cond.embeds,
                pooled_projections=cond.pooled, return_dict=False,
            )[0]  # fmt: skip
        return out.float()

    def sigmas(self, steps: int) -> Tensor:
        """The sampling schedule (steps + 1,) float32 from 1 to exactly 0, shifted as the scheduler says."""
        return flow.sigma_schedule(steps, self.shift).to(self.device)

    @torch.no_grad()
    def sample(self, noise: Tensor, cond: TextCondition, *, steps: int, guidance: float) -> Tensor:
        """Clean latents (B, *S) from noise (B, *S) by the Euler ODE sampler."""
        x, sigmas = noise, self.sigmas(steps)
        for sigma, sigma_next in itertools.pairwise(sigmas):
            v = self.guided_velocity(x, sigma.expand(len(x)), cond, guidance)
            x = flow.euler_step(x, v, sigma, sigma_next)
        return x

    # Pictures

    @torch.no_grad()
    def decode(self, z0: Tensor, chunk: int = 64) -> np.ndarray:
        """Latents (B, *S) to pictures uint8 (B, H, W, 3)."""
        vae = self.pipeline.vae
        shift = vae.config.shift_factor or 0.0
        pictures = []
        for part in z0.split(chunk):
            x = vae.decode(part / vae.config.scaling_factor + shift, return_dict=False)[0]
            x = ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            pictures.append(x.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures)

    @torch.no_grad()
    def encode_pictures(self, images: np.ndarray, chunk: int = 64) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, *S) float32 of the scaled latents of pictures uint8 (B, H, W, 3)."""
        vae = self.pipeline.vae
        shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
        means, stds = [], []
        for start in range(0, len(images), chunk):
            # Contiguous, because another memory layout rounds differently further on
            x = torch.from_numpy(images[start : start + chunk]).to(self.device).permute(0, 3, 1, 2).contiguous()
            posterior = vae.encode(x.float() / 127.5 - 1).latent_dist
            means.append((posterior.mean - shift) * scale)
            stds.append(posterior.std * scale)
        return torch.cat(means), torch.cat(stds)

    # Training

    def prepare(self, train: Train, seed: int) -> list[torch.nn.Parameter]:
        """Make the transformer trainable, wholly or by fresh LoRA adapters, and return what the optimiser gets."""
        self.transformer.train()
        if train.adaptation == "lora":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.transformer.add_adapter(
                    LoraConfig(
                        r=train.lora_rank, lora_alpha=train.lora_alpha, target_modules=list(train.lora_targets),
                        init_lora_weights="gaussian",
                    )
                )  # fmt: skip
            self._lora = True
        else:
            self.transformer.requires_grad_(True)
        return [p for p in self.transformer.parameters() if p.requires_grad]

    def merge(self) -> None:
        """End a stage: fold LoRA adapters into the weights, and freeze."""
        if self._lora:
            self.transformer.fuse_lora()
            self.transformer.unload_lora()
            self._lora = False
        self.transformer.requires_grad_(False).eval()

    def save(self, folder: Path) -> None:
        """Write the transformer in the diffusers format; with the base's other parts it is a whole pipeline again."""
        with appears_whole(folder) as temporary:
            try:
                self.transformer.save_pretrained(temporary, safe_serialization=True)
            except SafetensorError as error:  # how it reports the operating system's refusals
                raise OSError(str(error)) from error

    def frozen_copy(self) -> Frozen:
        """The model as it is now, frozen: the reference of a stage, or the base that drift is measured from."""
        if self._lora:
            return Frozen(self, None)
        return Frozen(self, copy.deepcopy(self.transformer).requires_grad_(False).eval())

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """The weights under the LoRA adapters."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def frozen_tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of all parts that are not being trained, by name."""
        parts = {name: part for name, part in self.pipeline.components.items() if isinstance(part, torch.nn.Module)}
        return {
            f"{part}.{name}": tensor
            for part, module in parts.items()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
            if not tensor.requires_grad
        }

    def measure_flops(self) -> PassFlops:
        """Count the FLOPs of one sample's passes by running them, with the trained weights as they are set up now."""
        x = torch.zeros(1, *self.latent_shape, device=self.device)
        sigma, cond = torch.full((1,), 0.5, device=self.device), self.encode([""])
        # The fused attention kernels of the CPU are not in torch's table of FLOPs; the plain one is.
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as forward, torch.enable_grad():
                v = self.velocity(x, sigma, cond)
            backward = _backward_flops(v) if v.requires_grad else 0
            with torch.enable_grad():
                through = _backward_flops(self.velocity(x.clone().requires_grad_(), sigma, cond))
            self.transformer.zero_grad(set_to_none=True)
            with FlopCounterMode(display=False) as reference:
                Frozen(self, None if self._lora else self.transformer).velocity(x, sigma, cond)
            with FlopCounterMode(display=False) as decode:
                self.decode(x)
        counts = (forward.get_total_flops(), backward, through, reference.get_total_flops(), decode.get_total_flops())
        return PassFlops(*map(float, counts))


def _backward_flops(v: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        v.sum().backward()
    return counter.get_total_flops()


def _refuse_empty_tokenizers(folder: Path) -> None:
    """A tokenizer without its vocabulary loads without a word, and knows no words.

    Raises:
        DataError: a tokenizer beside a text encoder of this local folder has no vocabulary.
    """
    for encoder in folder.glob("text_encoder*"):
        tokenizer = folder / encoder.name.replace("text_encoder", "tokenizer")
        if not any((tokenizer / name).is_file() for name in ("vocab.json", "tokenizer.json", "spiece.model")):
            raise DataError(
                f"{tokenizer}: expected a tokenizer's vocabulary for {encoder}, but there is none: restore it"
            )


class Frozen:
    """A frozen velocity field beside its policy: a copy of the weights, or the weights under the adapters."""

    def __init__(self, policy: SD3Policy, transformer: SD3Transformer2DModel | None) -> None:
        self._policy = policy
        self._transformer = transformer

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of the copy; the weights under adapters belong to the policy."""
        if self._transformer is None:
            return {}
        return dict((*self._transformer.named_parameters(), *self._transformer.named_buffers()))

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `SD3Policy.velocity`, without gradient."""
        if self._transformer is not None:
            return self._policy._run(self._transformer, x, sigma, cond)
        with self._policy.without_adapters():
            return self._policy.velocity(x, sigma, cond)


def guided(velocity: Any, null: Any, x: Tensor, sigma: Tensor, cond: Any, scale: float) -> Tensor:
    """Classifier-free guidance over any velocity function; one conditional pass where scale is 1."""
    if scale == 1.0:
        return velocity(x, sigma, cond)
    if scale < 0:
        raise ConfigError(f"guidance scale {scale}: expected 0 or more")
    return flow.guide(velocity(x, sigma, null(cond)), velocity(x, sigma, cond), scale)
