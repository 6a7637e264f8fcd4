"""The policy: velocity field, conditioning and decoder of a diffusers StableDiffusion3Pipeline.

The embedded miniature and SD3.5-Medium are the same classes, loaded by the same call; only the folder differs.
Arithmetic outside the transformer is float32 whatever the transformer's precision.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.models.transformers import SD3Transformer2DModel
from safetensors import SafetensorError
from torch import Tensor

from bench import flow
from bench.api import Condition, ConfigError
from bench.config.settings import Experiment, Runtime, Train
from bench.datasets.world import World
from bench.device import memory_told, resolve_device
from bench.distributed.dtensors import is_sharded, to_local
from bench.distributed.fsdp_passes import ShardedPasses
from bench.files import appears_whole
from bench.hub import locate_model
from bench.models import autoencoder, flops, kernels
from bench.models import lora as adapters
from bench.models.conditioning import TextCondition, TextEncoding
from bench.models.encoding_cache.folder import folder_of_all
from bench.models.encoding_cache.keys import encoder_identity
from bench.models.encoding_cache.store import Store
from bench.models.flops import PassFlops
from bench.models.loading import ENCODERS, load_encoders, load_pipeline

__all__ = [
    "Frozen",
    "PassFlops",
    "Policy",
    "Reference",
    "SD3Policy",
    "TextCondition",
    "VelocityField",
    "branches",
    "guided",
]

_LESS = "say --train.gradient_checkpointing true, or lower --train.micro_batch or --evaluation.batch_size"


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

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """Latents (B, *S) to pictures float32 (B, 3, H, W) in [0, 1]."""


class SD3Policy:
    """A rectified-flow model in the SD3 family.

    Attributes:
        latent_shape: (C, h, w) of one clean latent.
        shift: the scheduler's shift of the noise schedule.
        transformer: the part that is trained; everything else stays frozen.
        precision: of the transformer's passes, float32 or bfloat16.
        texts: encodes texts, and keeps what it found.
        store: where encodings are kept between runs; None where they are not.
        vae_identity: names the VAE in it.
        shards: where several ranks share out the weights of denoisers; None: each has them whole.
    """

    def __init__(
        self, pipeline: Any, runtime: Runtime, device: torch.device, *, precision: str = "float32",
        encoders: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.pipeline = pipeline  # a StableDiffusion3Pipeline, whose parts type checkers cannot see
        self.transformer: SD3Transformer2DModel = pipeline.transformer
        self.device = device
        self.precision = precision
        self.latent_shape = autoencoder.latent_shape(pipeline, runtime.resolution)
        self.shift = float(pipeline.scheduler.config.shift)
        self.texts = TextEncoding(pipeline, device, runtime.text_length, parked=runtime.park_encoders, load=encoders)
        self.store: Store | None = None
        self.vae_identity = ""
        self.shards: ShardedPasses | None = None
        self._runtime = runtime
        self._lora = False
        self._adapter: adapters.Adapter | None = None
        # Weights mapped from a file lie as the file has them; other alignments take other kernels, which round
        # differently, and a copy of the model would not be the model to the last bit.
        for parameter in self.transformer.parameters():
            parameter.data = parameter.data.clone()
        kernels.choose_attention(self.transformer, runtime.attention)
        if runtime.compile:
            kernels.compile_blocks(self.transformer, device)

    @classmethod
    def load(
        cls, path: str | Path, *, precision: str = "float32", runtime: Runtime | None = None, device: str = "auto",
        weights: str = "stored", encoders: bool = True,
    ) -> SD3Policy:  # fmt: skip
        """Load a StableDiffusion3Pipeline folder, or the hub id of a fetched one; or its shape with random `weights`.

        Without `encoders` the stored text encoders are loaded when a text has to be encoded, and leave memory again.

        Raises:
            ConfigError: there is no such device or architecture, or no picture of that size.
            DataError: there is no such pipeline, or it is damaged.
            MemoryShortError: it does not fit onto the device.
        """
        runtime, where = runtime or Runtime(), resolve_device(device)
        with memory_told(f"the model {path}", "say --runtime.frozen_weights bfloat16, or --runtime.park_encoders true"):
            pipeline = load_pipeline(path, runtime, where, weights, encoders=encoders)
        later = None if encoders else partial(load_encoders, path, runtime)
        return cls(pipeline, runtime, where, precision=precision, encoders=later)

    @classmethod
    def of(cls, experiment: Experiment, world: World, note: Callable[[str], object] = print) -> SD3Policy:
        """The base model of an experiment; raises as `load` does.

        What stored weights encode goes into the cache on disk, whose troubles `note` is told.
        """
        runtime, is_cached = experiment.runtime, experiment.weights == "stored" and experiment.cache_gib > 0
        policy = cls.load(
            world.model, precision=experiment.train.precision, runtime=runtime, device=experiment.device,
            weights=experiment.weights, encoders=not (is_cached and runtime.park_encoders),
        )  # fmt: skip
        if is_cached:
            policy.keep(Store(folder_of_all(), experiment.cache_gib * 2**30, note), locate_model(world.model))
        return policy

    def keep(self, store: Store, folder: Path) -> None:
        """From now on look for encodings in a store, and keep there what is encoded ahead; `folder` is the pipeline."""
        held = self._runtime.frozen_weights
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in ENCODERS]
        there = [name for name in tokenizers if getattr(self.pipeline, name) is not None]
        texts = [*there, *(name.replace("tokenizer", "text_encoder") for name in there)]
        self.store = store
        self.vae_identity = encoder_identity(folder, ["vae"], self.device, held)
        self.texts.keep(store, encoder_identity(folder, texts, self.device, held))

    # Conditioning

    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Prompts to conditioning by the pipeline's own `encode_prompt`; each text is encoded once and kept.

        Raises:
            DataError: a prompt is longer than the text encoders read; nothing is truncated silently.
        """
        return self.texts(prompts)

    def null(self, cond: TextCondition) -> TextCondition:
        """The empty prompt's conditioning, as many rows as `cond` has."""
        return self.encode([""]).expand(len(cond))

    # Velocity

    def velocity(self, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """Predicted velocity (B, *S) float32 at x (B, *S), sigma (B,) in [0, 1]."""
        return self._run(self.transformer, x, sigma, cond)

    def guided_velocity(self, x: Tensor, sigma: Tensor, cond: TextCondition, scale: float) -> Tensor:
        """v_u + scale (v_c - v_u) by one pass; v_c alone where scale is 1. Source: arXiv 2207.12598, eq. 6."""
        return guided(self.velocity, self.null, x, sigma, cond, scale)

    def _run(self, transformer: SD3Transformer2DModel, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        alone = partial(self._pass, transformer, x, sigma, cond)
        return alone() if self.shards is None else self.shards.forward(transformer, x, alone)

    def _idle(self, transformer: SD3Transformer2DModel, through: bool) -> Tensor:
        """A pass of one sample that nobody asked for; `through`: its state wants a gradient."""
        x = torch.zeros(1, *self.latent_shape, device=self.device, requires_grad=through)
        return self._pass(transformer, x, torch.ones(1, device=self.device), self.encode([""]))

    def _pass(self, transformer: SD3Transformer2DModel, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with memory_told(f"a pass of {len(x)} samples", _LESS), half:
            out = transformer(
                hidden_states=x, timestep=sigma * 1000.0, encoder_hidden_states=cond.embeds,
                pooled_projections=cond.pooled, return_dict=False,
            )[0]  # fmt: skip
        return out.float()

    @contextmanager
    def in_precision(self, precision: str | None) -> Iterator[None]:
        """The denoiser's passes inside are of this precision; None: of the policy's own."""
        before = self.precision
        self.precision = precision or before
        try:
            yield
        finally:
            self.precision = before

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

    def decode(self, z0: Tensor) -> np.ndarray:
        """Latents (B, *S) to pictures uint8 (B, H, W, 3)."""
        return autoencoder.decode_latents(self.pipeline.vae, z0)

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """Latents (B, *S) to pictures float32 (B, 3, H, W) in [0, 1], with gradient."""
        return autoencoder.decode_with_gradient(self.pipeline.vae, z0)

    def encode_pictures(self, images: np.ndarray, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, *S) float32 of the scaled latents of pictures uint8 (B, H, W, 3).

        `size` is that of the pictures, (W, H); None is the model's own.

        Raises:
            ConfigError: the model takes no pictures of that size.
            DataError: the pictures are of another size.
        """
        return autoencoder.encode_images(self.pipeline.vae, images, self.latent_of(size))

    def latent_of(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(C, h, w) of a latent of pictures of a size (W, H); None is the model's own.

        Raises:
            ConfigError: the model takes no pictures of that size.
        """
        if size is None:
            return self.latent_shape
        return autoencoder.latent_of(self.pipeline, size, f"pictures of {size[0]}x{size[1]} pixels")

    # Training

    def prepare(self, train: Train, seed: int) -> list[torch.nn.Parameter]:
        """Make the transformer trainable, wholly or by fresh LoRA adapters, and return what the optimiser gets."""
        self.transformer.train()
        if train.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()
        if train.adaptation == "lora":
            adapters.add(self.transformer, train, seed)
            self._lora = True
        else:
            self.transformer.requires_grad_(True)
        self._adapter = None
        return [p for p in self.transformer.parameters() if p.requires_grad]

    def shard(self, trained: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
        """Leave this rank its parts of all weights and return those; `trained` as it is where ranks share nothing."""
        if self.shards is None:
            return trained
        self.shards.shard(self.transformer, self.device, partial(self._idle, self.transformer))
        return list(self.transformer.parameters())

    def unshard(self, where: torch.device | str) -> None:
        """Have the weights whole again, in `where`, if ranks share them out; every rank has to ask for it at once."""
        if self.shards is not None and any(map(is_sharded, self.transformer.parameters())):
            self.transformer = self.pipeline.transformer = self.shards.unshard(self.transformer, where)
            kernels.choose_attention(self.transformer, self._runtime.attention)

    def merge(self) -> None:
        """End a stage: fold LoRA adapters into the weights, which are float32 from then on, and freeze."""
        if self._lora:
            self._adapter = adapters.taken(self.transformer)
            adapters.fold(self.transformer)
            self._lora = False
        self.transformer.requires_grad_(False).eval()

    def save(self, folder: Path) -> None:
        """Write the transformer in the diffusers format; with the base's other parts it is a whole pipeline again."""
        with appears_whole(folder) as temporary:
            try:
                self.transformer.register_to_config(_name_or_path="")  # where the base lay is no part of the result
                self.transformer.save_pretrained(temporary, safe_serialization=True)
            except SafetensorError as error:  # how it reports the operating system's refusals
                raise OSError(str(error)) from error

    def save_lora(self, folder: Path) -> bool:
        """Write the adapters that the last `merge` folded, for `load_lora_weights` of diffusers; False without any."""
        if self._adapter is None:
            return False
        adapters.save(self._adapter, folder)
        return True

    def frozen_copy(self) -> Frozen:
        """The model as it is now, frozen: the reference of a stage, or the base that drift is measured from."""
        if self._lora:
            return Frozen(self, None)
        if self.shards is not None:
            return Frozen(self, self._shared_copy(self.shards))
        frozen = copy.deepcopy(self.transformer).requires_grad_(False).eval()
        if self._runtime.compile:  # a copy is not compiled
            kernels.compile_blocks(frozen, self.device)
        return Frozen(self, frozen)

    def _shared_copy(self, shards: ShardedPasses) -> Any:
        """The same, shared out; it is made in main memory, because a card may not hold two of them whole."""
        transformer: Any = self.transformer
        frozen = copy.deepcopy(transformer.to("cpu")).requires_grad_(False).eval()
        transformer.to(self.device)
        shards.shard(frozen, self.device, partial(self._idle, frozen))
        return frozen

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

    def measure_flops(self, latent: tuple[int, ...] | None = None) -> PassFlops:
        """The FLOPs of one sample's passes, with the trained weights as they are set up now.

        `latent` is the shape of the sample; None: `latent_shape`.
        """
        return flops.count(self.transformer, self.pipeline.vae, latent or self.latent_shape, self.encode([""]))


class Frozen:
    """A frozen velocity field beside its policy: a copy of the weights, or the weights under the adapters."""

    def __init__(self, policy: SD3Policy, transformer: SD3Transformer2DModel | None) -> None:
        self._policy = policy
        self._transformer = transformer

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of the copy, or this rank's parts; the weights under adapters belong to the policy."""
        if self._transformer is None:
            return {}
        named = (*self._transformer.named_parameters(), *self._transformer.named_buffers())
        return {name: to_local(tensor) for name, tensor in named}

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        """As `SD3Policy.velocity`, without gradient."""
        if self._transformer is not None:
            return self._policy._run(self._transformer, x, sigma, cond)
        with self._policy.without_adapters():
            return self._policy.velocity(x, sigma, cond)


def branches(velocity: Any, null: Any, x: Tensor, sigma: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """The unconditional and the conditional velocity by any velocity function, in one pass."""
    both = velocity(torch.cat([x, x]), torch.cat([sigma, sigma]), cond.cat([null(cond), cond]))
    v_u, v_c = both.chunk(2)
    return v_u, v_c


def guided(velocity: Any, null: Any, x: Tensor, sigma: Tensor, cond: Any, scale: float) -> Tensor:
    """Classifier-free guidance over any velocity function, in one pass; conditional only where scale is 1."""
    if scale == 1.0:
        return velocity(x, sigma, cond)
    if scale < 0:
        raise ConfigError(f"guidance scale {scale}: expected 0 or more")
    return flow.guide(*branches(velocity, null, x, sigma, cond), scale)
