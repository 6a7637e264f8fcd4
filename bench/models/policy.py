"""The policy: velocity field, conditioning and decoder of a diffusers pipeline.

The embedded miniature and the published models are the same class, loaded by the same call; what differs between kinds
of pipelines says their family.
Arithmetic outside the transformer is float32 whatever the transformer's precision.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from bench import flow
from bench.config.settings import Experiment, Runtime, Train
from bench.datasets.world import World
from bench.device import memory_told, resolve_device
from bench.distributed.dtensors import is_sharded, to_local
from bench.distributed.fsdp_passes import ShardedPasses
from bench.files import appears_whole
from bench.hub import locate_model
from bench.models import autoencoder, flops, kernels
from bench.models import lora as adapters
from bench.models.conditioning import TextEncoding
from bench.models.encoding_cache.folder import folder_of_all
from bench.models.encoding_cache.keys import encoder_identity
from bench.models.encoding_cache.store import Store
from bench.models.families.family import Family
from bench.models.flops import PassFlops
from bench.models.loading import family_class, load_encoders, load_pipeline
from bench.models.text_condition import TextCondition
from bench.models.velocity import guided

__all__ = ["Frozen", "PassFlops", "PipelinePolicy", "TextCondition"]

_LESS = "say --train.gradient_checkpointing true, or lower --train.micro_batch or --evaluation.batch_size"


class PipelinePolicy:
    """A rectified-flow model of one of the families.

    Attributes:
        family: what is its own of this kind of pipeline.
        latent_shape: (C, h, w) of one clean latent.
        shift: of the noise schedule; that of pictures of the model's own size, where it depends on the size.
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
        self.pipeline = pipeline  # of diffusers, whose parts type checkers cannot see
        self.family: Family = family_class(pipeline)(pipeline, runtime)
        self.transformer: Any = pipeline.transformer
        self.device = device
        self.precision = precision
        side = runtime.resolution
        size = None if side is None else (side, side)
        self.latent_shape = self.family.latent_of(size, f"runtime.resolution {side}")
        self.shift = self.family.shift(self.latent_shape)
        self.texts = TextEncoding(self.family, device, runtime.text_length, parked=runtime.park_encoders, load=encoders)
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
        kernels.choose_attention(self.transformer, runtime.attention, self.family)
        if runtime.compile:
            kernels.compile_blocks(self.transformer, device)

    @classmethod
    def load(
        cls, path: str | Path, *, precision: str = "float32", runtime: Runtime | None = None, device: str = "auto",
        weights: str = "stored", encoders: bool = True,
    ) -> PipelinePolicy:  # fmt: skip
        """Load a pipeline folder, or the hub id of a fetched one; or its shape with random `weights`.

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
    def of(cls, experiment: Experiment, world: World, note: Callable[[str], object] = print) -> PipelinePolicy:
        """The base model of an experiment; raises as `load` does, and for what its family does not have.

        What stored weights encode goes into the cache on disk, whose troubles `note` is told.
        """
        runtime, is_cached = experiment.runtime, experiment.weights == "stored" and experiment.cache_gib > 0
        policy = cls.load(
            world.model, precision=experiment.train.precision, runtime=runtime, device=experiment.device,
            weights=experiment.weights, encoders=not (is_cached and runtime.park_encoders),
        )  # fmt: skip
        policy.family.refuse(experiment)
        if is_cached:
            policy.keep(Store(folder_of_all(), experiment.cache_gib * 2**30, note), locate_model(world.model))
        return policy

    def keep(self, store: Store, folder: Path) -> None:
        """From now on look for encodings in a store, and keep there what is encoded ahead; `folder` is the pipeline."""
        held = self._runtime.frozen_weights
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in self.family.encoders]
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
        """The guided velocity by one pass; v_c alone where scale is 1. Source: arXiv 2207.12598, eq. 6."""
        return guided(self, self.velocity, x, sigma, cond, scale)

    def guide(self, v_u: Tensor, v_c: Tensor, scale: float) -> Tensor:
        """v_u + scale (v_c - v_u) (B, *S), renormalised where the family does that."""
        return self.family.guide(v_u, v_c, scale)

    def _run(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        alone = partial(self._pass, transformer, x, sigma, cond)
        return alone() if self.shards is None else self.shards.forward(transformer, x, alone)

    def _idle(self, transformer: Any, through: bool) -> Tensor:
        """A pass of one sample that nobody asked for; `through`: its state wants a gradient."""
        x = torch.zeros(1, *self.latent_shape, device=self.device, requires_grad=through)
        return self._pass(transformer, x, torch.ones(1, device=self.device), self.encode([""]))

    def _pass(self, transformer: Any, x: Tensor, sigma: Tensor, cond: TextCondition) -> Tensor:
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with memory_told(f"a pass of {len(x)} samples", _LESS), half:
            out = self.family.velocity(transformer, x, sigma, cond)
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
        return self.family.sigmas(self.latent_shape, steps).to(self.device)

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
        return autoencoder.decode_latents(self.family, z0)

    def decode_with_gradient(self, z0: Tensor) -> Tensor:
        """Latents (B, *S) to pictures float32 (B, 3, H, W) in [0, 1], with gradient."""
        return autoencoder.decode_with_gradient(self.family, z0)

    def encode_pictures(self, images: np.ndarray, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, *S) float32 of the scaled latents of pictures uint8 (B, H, W, 3).

        `size` is that of the pictures, (W, H); None is the model's own.

        Raises:
            ConfigError: the model takes no pictures of that size.
            DataError: the pictures are of another size.
        """
        return autoencoder.encode_images(self.family, images, self.latent_of(size))

    def latent_of(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(C, h, w) of a latent of pictures of a size (W, H); None is the model's own.

        Raises:
            ConfigError: the model takes no pictures of that size.
        """
        if size is None:
            return self.latent_shape
        return self.family.latent_of(size, f"pictures of {size[0]}x{size[1]} pixels")

    # Training

    def prepare(self, train: Train, seed: int) -> list[torch.nn.Parameter]:
        """Make the transformer trainable, wholly or by fresh LoRA adapters, and return what the optimiser gets."""
        self.transformer.train()
        if train.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()
        if train.adaptation == "lora":
            adapters.add(self.transformer, train, seed, self.family)
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
            kernels.choose_attention(self.transformer, self._runtime.attention, self.family)

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
        adapters.save(self._adapter, folder, self.family.pipeline)
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
        cond = self.encode([""])
        if self.family.ragged:  # no text costs more than it is charged
            cond = self.family.blank(1, self.texts.length).to(self.device)
        return flops.count(self.family, self.transformer, latent or self.latent_shape, cond)

    def measure_encoding_flops(self, latent: tuple[int, ...]) -> float:
        """The FLOPs of encoding one picture to a latent of this shape."""
        return flops.count_encoding(self.family, latent)


class Frozen:
    """A frozen velocity field beside its policy: a copy of the weights, or the weights under the adapters."""

    def __init__(self, policy: PipelinePolicy, transformer: Any | None) -> None:
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
        """As `PipelinePolicy.velocity`, without gradient."""
        if self._transformer is not None:
            return self._policy._run(self._transformer, x, sigma, cond)
        with self._policy.without_adapters():
            return self._policy.velocity(x, sigma, cond)
