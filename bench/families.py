"""The families of models that can be trained, by the class that a pipeline's model_index.json names.

What a family is like says its own class in `bench.models.families`, which is imported when it is asked for. Neither
imports anything heavy at load, so that `bench list` stays quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_SD3 = "bench.models.families.sd3:StableDiffusion3"
FAMILIES: Mapping[str, str] = {
    "StableDiffusion3Pipeline": _SD3,
    "StableDiffusion3Img2ImgPipeline": _SD3,
    "StableDiffusion3InpaintPipeline": _SD3,
    "FluxPipeline": "bench.models.families.flux1:Flux1",
    "Flux2KleinPipeline": "bench.models.families.flux2:Flux2Klein",
    "QwenImagePipeline": "bench.models.families.qwen_image:QwenImage",
    "ZImagePipeline": "bench.models.families.z_image:ZImage",
    "Lumina2Pipeline": "bench.models.families.lumina2:Lumina2",
    "AuraFlowPipeline": "bench.models.families.auraflow:AuraFlow",
    "SanaPipeline": "bench.models.families.sana:Sana",
}
"""Classes of diffusers' pipelines, and where the family of each stands."""

_EPSILON = "it predicts the noise of a diffusion process"
REFUSED: Mapping[str, str] = {
    "PixArtAlphaPipeline": _EPSILON,
    "PixArtSigmaPipeline": _EPSILON,
    "StableDiffusionPipeline": _EPSILON,
    "StableDiffusionXLPipeline": _EPSILON,
    "HunyuanDiTPipeline": _EPSILON,
    "KolorsPipeline": _EPSILON,
    "LatentConsistencyModelPipeline": "it is a consistency model",
    "SanaSprintPipeline": "it is a consistency model in trigonometric time (SCM)",
    "StableCascadeCombinedPipeline": _EPSILON,
    "WuerstchenCombinedPipeline": _EPSILON,
}
"""Pipelines that are no rectified flow, and why."""


def families() -> Iterator[Any]:
    """Every family once, in their order."""
    for place in dict.fromkeys(FAMILIES.values()):
        yield _imported(place)


def family_of(pipeline: str) -> Any:
    """The family of a class of diffusers' pipelines.

    Raises:
        DataError: it is of none, or no rectified flow.
    """
    from bench.api import DataError

    if pipeline in REFUSED:
        raise DataError(
            f"a {pipeline} is no rectified flow: {REFUSED[pipeline]}, so it has no velocity to train: give a model of "
            "one of the families of `bench list models` by --model"
        )
    if pipeline not in FAMILIES:
        raise DataError(
            f"expected a pipeline of one of the families that can be trained ({', '.join(_names())}; `bench list "
            f"models`), but its model_index.json says that it is a {pipeline[:60]}: give another model by --model"
        )
    return _imported(FAMILIES[pipeline])


def pipeline_of(folder: Path) -> str | None:
    """The class of pipeline that a folder's model_index.json names; None where it is missing or damaged."""
    from bench.reading import read_json

    try:
        return str(read_json(folder / "model_index.json")["_class_name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def family_in(folder: Path) -> Any:
    """The family of a pipeline folder.

    Raises:
        DataError: its index is damaged, or says that it is a pipeline of no family.
    """
    from bench.api import DataError

    pipeline = pipeline_of(folder)
    if pipeline is None:
        raise DataError(
            f"{folder}: expected a diffusers pipeline folder, but its model_index.json names no class of pipeline: "
            "restore it, or give another one by --model"
        )
    try:
        return family_of(pipeline)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error


def refuse_other_pipeline(folder: Path) -> None:
    """Refuse a pipeline of no family; one whose index is damaged is told when it is loaded.

    Raises:
        DataError: its index says that it is another pipeline.
    """
    if pipeline_of(folder) is not None:
        family_in(folder)


def _names() -> list[str]:
    """The pipeline of each family."""
    return [str(family.pipeline) for family in families()]


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
