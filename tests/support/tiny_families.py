"""A tiny pipeline of every family with random weights, tokenizers and all; nothing of it is downloaded."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from bench.models.random_pipeline import _clip_tokenizer, _qwen_tokenizer, _t5_tokenizer
from tests.support.tiny_world import build_pipeline

SIDE = 64  # pixels of the pictures of all of them, as those of the embedded world
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}


def gemma_tokenizer() -> Any:
    """Single characters, the beginning marked as Gemma's does."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *sorted(set(string.printable))]
    tokenizer = transformers.GemmaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
    tokenizer._tokenizer.post_processor = TemplateProcessing("<bos> $A", None, [("<bos>", 2)])
    return tokenizer


def kl(channels: int, **more: Any) -> Any:
    """An AutoencoderKL, or one like it, of pictures eight times as wide as its latents."""
    kind = more.pop("kind", diffusers.AutoencoderKL)
    numbers = {
        "block_out_channels": (8, 8, 8, 8), "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": channels, "norm_num_groups": 4,
        "layers_per_block": 1, "mid_block_add_attention": False,
    }  # fmt: skip
    return kind(**numbers, **more)


def plain(channels: int, **more: Any) -> Any:
    """One with the shift and the scale that most families have."""
    return kl(channels, use_quant_conv=False, use_post_quant_conv=False, **more)


def euler(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


DYNAMIC = {
    "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 16,
    "max_image_seq_len": 64,
}  # fmt: skip


def language(kind: str, tokens: int, layers: int = 2, **more: Any) -> Any:
    """A small language model of transformers."""
    cls = getattr(transformers, kind)
    numbers = {
        "vocab_size": tokens, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 2048,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip
    return cls(cls.config_class(**{**numbers, **more}))


def t5(kind: str, tokens: int) -> Any:
    cls = getattr(transformers, kind)
    numbers = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    return cls(cls.config_class(vocab_size=tokens, **numbers))


def flux1(*, guidance_embeds: bool = True) -> Any:
    clip, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer()
    text = transformers.CLIPTextConfig(
        vocab_size=len(clip), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, joint_attention_dim=24, pooled_projection_dim=16,
            guidance_embeds=guidance_embeds, axes_dims_rope=(4, 6, 6), **HEADS,
        ),
        vae=plain(16, scaling_factor=0.36, shift_factor=0.12), scheduler=euler(**DYNAMIC),
        text_encoder=transformers.CLIPTextModel(text), tokenizer=clip,
        text_encoder_2=t5("T5EncoderModel", len(t5_tokenizer)), tokenizer_2=t5_tokenizer,
    )  # fmt: skip


def auraflow() -> Any:
    tokenizer = _t5_tokenizer()
    pipeline = diffusers.AuraFlowPipeline(
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
            joint_attention_dim=24, caption_projection_dim=32, out_channels=4, pos_embed_max_size=64, **HEADS,
        ),
        vae=kl(4, scaling_factor=0.13), scheduler=euler(shift=1.73),
        text_encoder=t5("UMT5EncoderModel", len(tokenizer)), tokenizer=tokenizer,
    )  # fmt: skip
    for name, parameter in pipeline.transformer.named_parameters():
        if "blocks" in name:  # so that texts are heard
            parameter.data.mul_(1.6)
    return pipeline


def lumina2() -> Any:
    tokenizer = gemma_tokenizer()
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, hidden_size=32, num_layers=1, num_refiner_layers=1,
            num_attention_heads=2, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(300, 32, 32),
            cap_feat_dim=16,
        ),
        vae=plain(16, scaling_factor=0.36, shift_factor=0.12), scheduler=euler(use_dynamic_shifting=True),
        text_encoder=language("Gemma2Model", len(tokenizer)), tokenizer=tokenizer,
    )  # fmt: skip


def z_image() -> Any:
    tokenizer = _qwen_tokenizer()
    pipeline = diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
            axes_dims=[4, 6, 6], axes_lens=[1024, 32, 32],
        ),
        vae=plain(16, scaling_factor=0.36, shift_factor=0.12), scheduler=euler(shift=6.0),
        text_encoder=language("Qwen3Model", len(tokenizer)), tokenizer=tokenizer,
    )  # fmt: skip
    for token in (pipeline.transformer.x_pad_token, pipeline.transformer.cap_pad_token):
        torch.nn.init.normal_(token, std=0.1)
    return pipeline


def qwen_image() -> Any:
    tokenizer = _qwen_tokenizer()
    text = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "bos_token_id": 0, "eos_token_id": 1,
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16,
        },
        vision_start_token_id=3, vision_end_token_id=4, image_token_id=5, video_token_id=6,
    )  # fmt: skip
    statistics = torch.linspace(-1, 1, 16)
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=64, out_channels=16, num_layers=2, joint_attention_dim=16, axes_dims_rope=(4, 6, 6), **HEADS
        ),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
            latents_mean=statistics.tolist(), latents_std=(2 + statistics).tolist(),
        ),
        scheduler=euler(**DYNAMIC, shift_terminal=0.02),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(text), tokenizer=tokenizer,
    )  # fmt: skip


def flux2(*, is_distilled: bool = False) -> Any:
    tokenizer = _qwen_tokenizer()
    vae = kl(8, kind=diffusers.AutoencoderKLFlux2)
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2)
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=32, num_layers=1, num_single_layers=1, joint_attention_dim=48, guidance_embeds=False,
            axes_dims_rope=(4, 4, 4, 4), **HEADS,
        ),
        vae=vae, scheduler=euler(use_dynamic_shifting=True), is_distilled=is_distilled,
        text_encoder=language("Qwen3ForCausalLM", len(tokenizer), layers=27), tokenizer=tokenizer,
    )  # fmt: skip


def sana() -> Any:
    tokenizer = gemma_tokenizer()
    stages = 6
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=1, num_cross_attention_heads=2, cross_attention_head_dim=16,
            cross_attention_dim=32, caption_channels=16, sample_size=2, patch_size=1, qk_norm="rms_norm_across_heads",
            **HEADS,
        ),
        vae=diffusers.AutoencoderDC(
            latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8,) * stages,
            decoder_block_out_channels=(8,) * stages, encoder_layers_per_block=(1,) * stages,
            decoder_layers_per_block=(1,) * stages, encoder_qkv_multiscales=((),) * stages,
            decoder_qkv_multiscales=((),) * stages, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
            scaling_factor=0.41, encoder_out_shortcut=False, decoder_in_shortcut=False,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=language("Gemma2Model", len(tokenizer)), tokenizer=tokenizer,
    )  # fmt: skip


BUILDERS: dict[str, Callable[[], Any]] = {
    "flux1": flux1,
    "flux2-klein": flux2,
    "qwen-image": qwen_image,
    "z-image": z_image,
    "lumina2": lumina2,
    "auraflow": auraflow,
    "sana": sana,
}


def write_family(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the tiny pipeline of a family; returns its folder."""
    if name == "sd3":
        return build_pipeline(folder, seed)
    torch.manual_seed(seed)
    write(BUILDERS[name](), folder)
    return folder


def write(pipeline: Any, folder: Path) -> Path:
    """Write a pipeline whose denoiser answers something: most last layers begin at zero, and gates do too."""
    for parameter in pipeline.transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    pipeline.save_pretrained(folder)
    return folder
