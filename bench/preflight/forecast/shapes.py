"""A pipeline's parts on torch's `meta` device: shapes and precisions without values, so that they take no memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench.config.architectures import BY_NAME
from bench.config.settings import Experiment, Runtime, Train
from bench.datasets.base_model import base_model
from bench.hub import is_model_here, locate_model
from bench.models import flops
from bench.models.conditioning import TextCondition
from bench.models.flops import PassFlops
from bench.models.loading import ENCODERS
from bench.models.policy import SD3Policy
from bench.models.random_pipeline import build_random_pipeline


@dataclass(frozen=True)
class ModelShapes:
    """The parts of an experiment's model, held as its runtime says; nothing has values."""

    pipeline: Any
    runtime: Runtime

    @classmethod
    def of(cls, experiment: Experiment) -> ModelShapes:
        """Those of the experiment's model: from its configuration where it is here, else from the published numbers.

        Raises:
            ConfigError, DataError: it is not here, and its numbers are not known.
        """
        runtime = dataclasses.replace(experiment.runtime, park_encoders=False, compile=False, attention="auto")
        named = experiment.weights == "random" or not is_model_here(experiment.model)
        if named:
            model = str(experiment.model)
            if model not in BY_NAME:
                locate_model(model)  # says how to get it
            parts = build_random_pipeline(model, "meta", t5=runtime.t5)
        else:
            parts = _configured(base_model(experiment.model), t5=runtime.t5)
        for name in ("transformer", "vae", *ENCODERS):
            module = getattr(parts, name)
            if module is not None:
                held = runtime.denoiser_weights if name == "transformer" else runtime.frozen_weights
                module.to(getattr(torch, held)).requires_grad_(False).eval()
        return cls(parts, runtime)

    @cached_property
    def latent(self) -> tuple[int, int, int]:
        """(C, h, w) of one clean latent."""
        policy = SD3Policy(self.pipeline, self.runtime, torch.device("meta"))
        return policy.latent_shape

    @property
    def text_length(self) -> int:
        """Tokens of one text's embedding: CLIP's 77, and T5's."""
        texts = SD3Policy(self.pipeline, self.runtime, torch.device("meta")).texts
        return int(self.pipeline.text_encoder.config.max_position_embeddings) + texts.length

    @property
    def text_numbers(self) -> int:
        """Numbers of one text's conditioning, embeddings and pooled ones."""
        config = self.pipeline.transformer.config
        return self.text_length * config.joint_attention_dim + config.pooled_projection_dim

    @property
    def shift(self) -> float:
        """Of the noise schedule."""
        return float(self.pipeline.scheduler.config.shift)

    def bytes_of(self, *parts: str) -> int:
        """Bytes of the weights and buffers of some parts, as they are held."""
        modules = [getattr(self.pipeline, name) for name in parts]
        return sum(t.nbytes for m in modules if m is not None for t in (*m.parameters(), *m.buffers()))

    def numbers_of(self, *parts: str) -> int:
        """How many weights and numbers in tables (that of the positions) the files of some parts hold."""
        modules = [getattr(self.pipeline, name) for name in parts]
        return sum(t.numel() for m in modules if m is not None for t in m.state_dict().values())

    def prepared_policy(self, train: Train, device: str) -> SD3Policy:
        """A policy on shapes alone, with a transformer of its own, set up for training as on `device`."""
        from diffusers import SD3Transformer2DModel

        config, held = dict(self.pipeline.transformer.config), getattr(torch, self.runtime.denoiser_weights)
        with torch.device("meta"):
            transformer: Any = SD3Transformer2DModel.from_config(config).to(held)
        parts = {name: getattr(self.pipeline, name) for name in ("vae", "scheduler", *ENCODERS)}
        pipeline = SimpleNamespace(**parts, transformer=transformer.requires_grad_(False))
        policy = SD3Policy(pipeline, self.runtime, torch.device(device), precision=train.precision)
        policy.prepare(train, 0)
        return policy

    def trained_weights_and_flops(self, train: Train) -> tuple[int, PassFlops]:
        """How many weights a stage trains, and the FLOPs of one sample's passes meanwhile."""
        transformer, config = self.prepared_policy(train, "meta").transformer, self.pipeline.transformer.config
        cond = TextCondition(
            torch.zeros(1, self.text_length, config.joint_attention_dim), torch.zeros(1, config.pooled_projection_dim)
        )
        count = sum(p.numel() for p in transformer.parameters() if p.requires_grad)
        return count, flops.count(transformer, self.pipeline.vae, self.latent, cond, "meta")


def _configured(folder: Path, *, t5: bool) -> Any:
    """The parts of a pipeline folder from their configurations alone."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    def clip(name: str) -> Any:
        return CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / name, local_files_only=True))

    has_t5 = t5 and (folder / "text_encoder_3").is_dir()
    with torch.device("meta"):
        third = (
            T5EncoderModel(T5Config.from_pretrained(folder / "text_encoder_3", local_files_only=True))
            if has_t5
            else None
        )
        return SimpleNamespace(
            transformer=SD3Transformer2DModel.from_config(SD3Transformer2DModel.load_config(folder / "transformer")),
            vae=AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            text_encoder=clip("text_encoder"), text_encoder_2=clip("text_encoder_2"), text_encoder_3=third,
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True),
        )  # fmt: skip
