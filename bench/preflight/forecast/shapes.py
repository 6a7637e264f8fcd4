"""A pipeline's parts on torch's `meta` device: shapes and precisions without values, so that they take no memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from diffusers.configuration_utils import FrozenDict

from bench.config.architectures import BY_NAME
from bench.config.settings import Experiment, Runtime, Train
from bench.datasets.base_model import base_model
from bench.families import family_in
from bench.hub import is_model_here, locate_model
from bench.models import flops
from bench.models.families.family import Family
from bench.models.flops import PassFlops
from bench.models.loading import family_class
from bench.models.policy import PipelinePolicy
from bench.models.random_pipeline import build_random_pipeline
from bench.models.text_condition import TextCondition
from bench.reading import read_json


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
            parts = _configured(base_model(experiment.model), runtime)
        encoders = family_class(parts).encoders
        for name in ("transformer", "vae", *encoders):
            module = getattr(parts, name)
            if module is not None:
                held = runtime.denoiser_weights if name == "transformer" else runtime.frozen_weights
                module.to(getattr(torch, held)).requires_grad_(False).eval()
        shapes = cls(parts, runtime)
        shapes.family.refuse(experiment)
        return shapes

    @cached_property
    def policy(self) -> PipelinePolicy:
        """One that nobody trains."""
        return PipelinePolicy(self.pipeline, self.runtime, torch.device("meta"))

    @property
    def family(self) -> Family:
        """Of the model."""
        return self.policy.family

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, h, w) of one clean latent."""
        return self.policy.latent_shape

    @property
    def text_numbers(self) -> int:
        """Numbers of one text's conditioning, embeddings and pooled ones."""
        return sum(t.numel() for name, t in self._blank.named().items() if name != "lengths")

    @property
    def _blank(self) -> TextCondition:
        return self.family.blank(1, self.policy.texts.length)

    @property
    def shift(self) -> float:
        """Of the noise schedule."""
        return self.policy.shift

    def bytes_of(self, *parts: str) -> int:
        """Bytes of the weights and buffers of some parts, as they are held."""
        modules = [getattr(self.pipeline, name) for name in parts]
        return sum(t.nbytes for m in modules if m is not None for t in (*m.parameters(), *m.buffers()))

    def numbers_of(self, *parts: str) -> int:
        """How many weights and numbers in tables (that of the positions) the files of some parts hold."""
        modules = [getattr(self.pipeline, name) for name in parts]
        return sum(t.numel() for m in modules if m is not None for t in m.state_dict().values())

    def prepared_policy(self, train: Train, device: str) -> PipelinePolicy:
        """A policy on shapes alone, with a transformer of its own, set up for training as on `device`."""
        whole, held = self.pipeline.transformer, getattr(torch, self.runtime.denoiser_weights)
        with torch.device("meta"):
            transformer: Any = type(whole).from_config(dict(whole.config)).to(held)
        pipeline = PipelineParts(**{**vars(_parts_of(self.pipeline)), "transformer": transformer.requires_grad_(False)})
        policy = PipelinePolicy(pipeline, self.runtime, torch.device(device), precision=train.precision)
        policy.prepare(train, 0)
        return policy

    def trained_weights_and_flops(self, train: Train) -> tuple[int, PassFlops]:
        """How many weights a stage trains, and the FLOPs of one sample's passes meanwhile."""
        transformer = self.prepared_policy(train, "meta").transformer
        count = sum(p.numel() for p in transformer.parameters() if p.requires_grad)
        return count, flops.count(self.family, transformer, self.latent, self._blank, "meta")


class PipelineParts(SimpleNamespace):
    """The parts of a pipeline by name; `pipeline_class` and `config` are as diffusers' own would be."""


def _parts_of(pipeline: Any) -> PipelineParts:
    """Those of a pipeline of diffusers, or of the same kind as here."""
    if isinstance(pipeline, PipelineParts):
        return pipeline
    return PipelineParts(**pipeline.components, pipeline_class=type(pipeline).__name__, config=pipeline.config)


def _configured(folder: Path, runtime: Runtime) -> PipelineParts:
    """The parts of a pipeline folder from their configurations alone."""
    index: dict[str, Any] = read_json(folder / "model_index.json")
    family = family_in(folder)
    absent = family.left_out(folder, runtime)
    parts: dict[str, Any] = dict.fromkeys(absent)
    parts["scheduler"] = _part(folder / "scheduler", str(index["scheduler"][1]))
    with torch.device("meta"):
        for name in ("transformer", "vae", *family.encoders):
            if name not in absent:
                parts[name] = _part(folder / name, str(index[name][1]))
    settings = {name: value for name, value in index.items() if not isinstance(value, list)}
    return PipelineParts(**parts, pipeline_class=family.pipeline, config=FrozenDict(settings))


def _part(folder: Path, kind: str) -> Any:
    """A part of diffusers' or of transformers', of the class that the index names, by its configuration."""
    cls = getattr(diffusers, kind, None)
    if cls is not None:
        return cls.from_config(cls.load_config(folder))
    cls = getattr(transformers, kind)
    config: dict[str, Any] = read_json(folder / "config.json")
    return cls(cls.config_class.from_dict(config))
