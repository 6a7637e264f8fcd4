"""Every family against diffusers' own pipeline: the same tiny random weights, texts and noise, three Euler steps.

Both read the same folder; the pipeline encodes the prompts itself. A control changes one thing that a family says (the
sign of the velocity, the time, the guidance) and has to differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from bench.config.settings import Runtime
from bench.families import families
from bench.models.families.packing import pack, unpack
from bench.models.policy import PipelinePolicy
from tests.support.tiny_families import SIDE, write_family

STEPS = 3
SCALES = (1.0, 3.0)
PROMPTS = ["a photo of a red circle", "two rings"]
NAMES = tuple(family.name for family in families())
UNSHIFTED = [1 - i / STEPS for i in range(STEPS)]  # diffusers' own, before they are shifted

TOLERANCE = 1e-5
CONTROL = 1e-3  # what a control has to differ by, at least

SHARED = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS, "output_type": "latent"}


def _sd3(pipeline: Any, z: Tensor, w: float) -> Tensor:
    return pipeline(
        PROMPTS, latents=z, guidance_scale=w, sigmas=UNSHIFTED, max_sequence_length=0, **SHARED
    ).images  # fmt: skip


def _flux1(pipeline: Any, z: Tensor, w: float) -> Tensor:
    negative = {"negative_prompt": [""] * len(PROMPTS)} if w != 1 else {}
    out = pipeline(PROMPTS, latents=pack(z), true_cfg_scale=w, guidance_scale=3.5, **negative, **SHARED).images
    return unpack(out, *z.shape[-2:])


def _flux2(pipeline: Any, z: Tensor, w: float) -> Tensor:
    """The pipeline gives the VAE's latents: back to patches under the batch norm."""
    out = pipeline(prompt=PROMPTS, latents=z, guidance_scale=w, **SHARED).images
    bn = pipeline.vae.bn
    mean, std = bn.running_mean, (bn.running_var + pipeline.vae.config.batch_norm_eps).sqrt()
    return (pipeline._patchify_latents(out) - mean[:, None, None]) / std[:, None, None]


def _qwen_image(pipeline: Any, z: Tensor, w: float) -> Tensor:
    negative = {"negative_prompt": [""] * len(PROMPTS)} if w != 1 else {}
    out = pipeline(PROMPTS, latents=pack(z), true_cfg_scale=w, **negative, **SHARED).images
    return unpack(out, *z.shape[-2:])


def _z_image(pipeline: Any, z: Tensor, w: float) -> Tensor:
    """The pipeline's scale is one less."""
    return pipeline([*PROMPTS], latents=z, guidance_scale=w - 1, **SHARED).images


def _lumina2(pipeline: Any, z: Tensor, w: float) -> Tensor:
    return pipeline(PROMPTS, latents=z, guidance_scale=w, **SHARED).images


def _auraflow(pipeline: Any, z: Tensor, w: float) -> Tensor:
    return pipeline(PROMPTS, latents=z, guidance_scale=w, sigmas=UNSHIFTED, **SHARED).images


def _sana(pipeline: Any, z: Tensor, w: float) -> Tensor:
    """By Euler's steps in place of the multistep solver."""
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=pipeline.scheduler.config.flow_shift)
    pipeline = diffusers.SanaPipeline(**{**pipeline.components, "scheduler": euler})
    return pipeline(
        PROMPTS, latents=z, guidance_scale=w, sigmas=UNSHIFTED, use_resolution_binning=False, **SHARED
    ).images  # fmt: skip


THEIRS: Mapping[str, Callable[[Any, Tensor, float], Tensor]] = {
    "sd3": _sd3, "flux1": _flux1, "flux2-klein": _flux2, "qwen-image": _qwen_image, "z-image": _z_image,
    "lumina2": _lumina2, "auraflow": _auraflow, "sana": _sana,
}  # fmt: skip


def load(folder: Path, **runtime: Any) -> PipelinePolicy:
    """The policy of a tiny pipeline."""
    return PipelinePolicy.load(folder, device="cpu", runtime=Runtime(resolution=SIDE, **runtime))


def pipeline_of(folder: Path) -> Any:
    """diffusers' own."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    absent = dict.fromkeys(name for name, kind in index.items() if kind == [None, None])
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise_for(policy: PipelinePolicy) -> Tensor:
    """Initial noise (prompts, C, h, w)."""
    return torch.randn(len(PROMPTS), *policy.latent_shape, generator=torch.Generator().manual_seed(1))


def ours(policy: PipelinePolicy, scale: float) -> Tensor:
    """What the policy samples."""
    return policy.sample(noise_for(policy), policy.encode(PROMPTS), steps=STEPS, guidance=scale)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest of all."""
    assert a.shape == b.shape
    return float((a - b).abs().max())


def with_sign(policy: PipelinePolicy) -> None:
    """A control: the velocity is that from noise to data."""
    velocity = policy.family.velocity
    policy.family.velocity = lambda *args: -velocity(*args)  # type: ignore[method-assign]


def with_time(policy: PipelinePolicy) -> None:
    """A control: the denoiser is told the time from the other end."""
    velocity = policy.family.velocity
    policy.family.velocity = lambda t, x, sigma, cond: velocity(t, x, 1 - sigma, cond)  # type: ignore[method-assign]


def with_guidance(policy: PipelinePolicy) -> None:
    """A control: another scale; where guidance is renormalised, none of that."""
    guide = policy.family.guide
    renormalises = "norm" in policy.family.guidance
    plain = lambda v_u, v_c, scale: v_u + scale * (v_c - v_u)  # noqa: E731
    policy.family.guide = plain if renormalises else lambda u, c, w: guide(u, c, w + 1)  # type: ignore[method-assign]


CONTROLS = {"sign": with_sign, "time": with_time, "guidance": with_guidance}


def measured(name: str, folder: Path) -> dict[str, float]:
    """Largest differences from diffusers' pipeline: by guidance scale, and under each control at the last one."""
    pipeline, found = pipeline_of(folder), {}
    policy = load(folder)
    for scale in SCALES:
        theirs = THEIRS[name](pipeline, noise_for(policy), scale)
        found[f"{scale:g}"] = difference(ours(policy, scale), theirs)
    for control, change in CONTROLS.items():
        changed = load(folder)
        change(changed)
        found[control] = difference(ours(changed, scale), theirs)
    return found


DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"
COLUMNS = ("name", "models", "pipeline", "latents", "conditioning", "time", "guidance", "schedule")
INTRODUCTION = """# Models

Any rectified flow of these families trains and samples by the same commands: `--model` takes a pipeline folder in the
diffusers format, or the id of a fetched model, whose `model_index.json` names its pipeline. One that is no rectified
flow (PixArt, SANA-Sprint, Stable Diffusion XL, ...) is refused by its name. s is the noise level, v the velocity from
data to noise.

"""
MIDDLE = f"""
LoRA adapters go to the family's attention layers (`bench list models`). Beyond plain passes only Stable Diffusion 3 was
tried: `--shard`, `runtime.compile`, `runtime.attention` and `runtime.t5 false` are refused by name for the others.
Where a pipeline has a multistep solver, as SANA's has, the steps here are Euler's. A shift that depends on the size of
pictures is that of the model's resolution in every aspect bucket.

## At full size

`python -m bench plan --preset z-image-lora --gpu h100` computes memory and hours from the published numbers, nothing is
fetched; SFT, SOAR and Flow-GRPO by LoRA at 512 pixels, 500k passes each, three seeds, at 0.4 of the card's peak:

| preset | memory, at most | H100 SXM | L40S |
| --- | --- | --- | --- |
| flux2-klein-lora | 29.9 GiB | 48.9 h | 133 h |
| z-image-lora | 39.5 GiB | 89.1 h | 243 h |

## Conformance

Largest difference of latents from diffusers' own pipeline after {STEPS} Euler steps, tiny random weights, the same
texts and noise (allowed: {TOLERANCE:g}); and with one thing set wrong, at guidance {SCALES[-1]:g} (at least
{CONTROL:g}). `python -m tests.models.families` measures anew; a test compares.

"""


def facts_table() -> str:
    """What each family says of itself."""
    rows = [[str(getattr(family, column)) for column in COLUMNS] for family in families()]
    return _table(["family", *COLUMNS[1:]], rows)


def differences_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Largest differences, as the power of ten that they do not exceed, and those under the controls."""
    head = ["family", *(f"guidance {scale:g}" for scale in SCALES), *(f"wrong {control}" for control in CONTROLS)]
    rows = [
        [name, *(_bound(values[f"{scale:g}"]) for scale in SCALES), *(f"{values[c]:.1g}" for c in CONTROLS)]
        for name, values in found.items()
    ]
    return _table(head, rows)


def page(found: Mapping[str, Mapping[str, float]]) -> str:
    """docs/models.md."""
    return INTRODUCTION + facts_table() + MIDDLE + differences_table(found)


def _bound(value: float) -> str:
    return f"1e{max(-7, math.ceil(math.log10(value)))}" if value else "0"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_all(folder: Path) -> dict[str, Path]:
    """A tiny pipeline of every family."""
    return {name: write_family(name, folder / name) for name in NAMES}
