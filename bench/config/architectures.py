"""The published architectures as plain numbers.

Source: transformer/config.json, vae/config.json, text_encoder*/config.json and scheduler/scheduler_config.json of
stabilityai/stable-diffusion-3-medium-diffusers, stable-diffusion-3.5-medium and stable-diffusion-3.5-large,
black-forest-labs/FLUX.2-klein-base-4B and Tongyi-MAI/Z-Image; arXiv 2403.03206, section 5, and the model card of
SD3.5-Medium for its dual attention (MMDiT-X).

`shrunken` is SD3.5-Medium with everything in it and everything small: a rehearsal of the rehearsal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.api import ConfigError
from bench.hub import is_hub_id
from bench.suggest import hint

Numbers = dict[str, Any]

_VAE: Numbers = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "norm_num_groups": 32,
    "scaling_factor": 1.5305, "shift_factor": 0.0609, "sample_size": 1024,
}  # fmt: skip
_CLIP_L: Numbers = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "hidden_act": "quick_gelu", "vocab_size": 49408,
}  # fmt: skip
_CLIP_G: Numbers = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu", "vocab_size": 49408,
}  # fmt: skip
_T5_XXL: Numbers = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip


# Where the published tokenizers have their two special tokens is of no account here; that encoders and tokenizers agree
# is. An eos_token_id other than 2 makes the text encoders pool at that token.
_CLIP_TOKENS: Numbers = {"max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def _transformer(layers: int, heads: int, **more: Any) -> Numbers:
    """What the three published transformers have in common, with their own numbers."""
    return {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64,
        "num_layers": layers, "num_attention_heads": heads, "caption_projection_dim": 64 * heads,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192, **more,
    }  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """The numbers of one pipeline's parts, as the constructors of diffusers and transformers take them.

    pipeline: its class in diffusers. parts: by their names there, the class of each and its numbers, in the order in
    which random weights are drawn. tokenizers: by their names there, of which kind each is.
    """

    pipeline: str
    parts: Mapping[str, tuple[str, Numbers]]
    tokenizers: Mapping[str, str]

    @property
    def transformer(self) -> Numbers:
        """Of the denoiser."""
        return self.parts["transformer"][1]


def _sd3(
    transformer: Numbers, vae: Numbers = _VAE, clip_l: Numbers = _CLIP_L, clip_g: Numbers = _CLIP_G,
    t5: Numbers = _T5_XXL,
) -> Architecture:  # fmt: skip
    clip, blocks = "CLIPTextModelWithProjection", len(vae["block_out_channels"])
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "use_quant_conv": False, "use_post_quant_conv": False,
    }  # fmt: skip
    parts = {
        "transformer": ("SD3Transformer2DModel", transformer),
        "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        "vae": ("AutoencoderKL", {**kinds, **vae}),
        "text_encoder": (clip, {**_CLIP_TOKENS, **clip_l}),
        "text_encoder_2": (clip, {**_CLIP_TOKENS, **clip_g}),
        "text_encoder_3": ("T5EncoderModel", t5),
    }
    tokenizers = {"tokenizer": "clip", "tokenizer_2": "clip", "tokenizer_3": "t5"}
    return Architecture("StableDiffusion3Pipeline", parts, tokenizers)


def _clip(width: int) -> Numbers:
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2,
        "projection_dim": width, "hidden_act": "gelu", "vocab_size": 80,
    }  # fmt: skip


_SHRUNKEN = _sd3(
    transformer={
        "sample_size": 8, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 16,
        "num_layers": 3, "num_attention_heads": 2, "caption_projection_dim": 32, "joint_attention_dim": 48,
        "pooled_projection_dim": 40, "pos_embed_max_size": 12, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
    },
    vae={**_VAE, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 64},
    clip_l=_clip(16),
    clip_g=_clip(24),
    t5={"d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 128,
        "feed_forward_proj": "gated-gelu"},
)  # fmt: skip


_QWEN3_4B: Numbers = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "vocab_size": 151936,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
}  # fmt: skip
_DOWN_UP: Numbers = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}

_FLUX2_KLEIN_BASE = Architecture(
    "Flux2KleinPipeline",
    {
        "transformer": ("Flux2Transformer2DModel", {
            "attention_head_dim": 128, "axes_dims_rope": (32, 32, 32, 32), "eps": 1e-6, "guidance_embeds": False,
            "in_channels": 128, "joint_attention_dim": 7680, "mlp_ratio": 3.0, "num_attention_heads": 24,
            "num_layers": 5, "num_single_layers": 20, "patch_size": 1, "rope_theta": 2000,
            "timestep_guidance_channels": 256,
        }),
        "scheduler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
        "vae": ("AutoencoderKLFlux2", {
            "block_out_channels": (128, 256, 512, 512), "latent_channels": 32, "layers_per_block": 2,
            "norm_num_groups": 32, "patch_size": (2, 2), "batch_norm_eps": 1e-4, **_DOWN_UP,
        }),
        "text_encoder": ("Qwen3ForCausalLM", _QWEN3_4B),
    },
    {"tokenizer": "qwen"},
)  # fmt: skip
_Z_IMAGE = Architecture(
    "ZImagePipeline",
    {
        "transformer": ("ZImageTransformer2DModel", {
            "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 3840, "n_layers": 30,
            "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "norm_eps": 1e-5, "qk_norm": True,
            "cap_feat_dim": 2560, "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
        }),
        "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 6.0}),
        "vae": ("AutoencoderKL", {
            **_VAE, **_DOWN_UP, "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False,
            "use_post_quant_conv": False,
        }),
        "text_encoder": ("Qwen3Model", _QWEN3_4B),
    },
    {"tokenizer": "qwen"},
)  # fmt: skip

BY_NAME: dict[str, Architecture] = {
    "stabilityai/stable-diffusion-3-medium-diffusers": _sd3(_transformer(24, 24)),
    "stabilityai/stable-diffusion-3.5-medium": _sd3(
        _transformer(24, 24, qk_norm="rms_norm", pos_embed_max_size=384, dual_attention_layers=tuple(range(13)))
    ),
    "stabilityai/stable-diffusion-3.5-large": _sd3(_transformer(38, 38, qk_norm="rms_norm")),
    "black-forest-labs/FLUX.2-klein-base-4B": _FLUX2_KLEIN_BASE,
    "Tongyi-MAI/Z-Image": _Z_IMAGE,
    "shrunken": _SHRUNKEN,
}


def is_model_name(text: str) -> bool:
    """Whether a text can name a model that lies in no folder here: one of the hub, or one of `BY_NAME`."""
    return text in BY_NAME or is_hub_id(text)


def architecture_named(model: str) -> Architecture:
    """The architecture of a model.

    Raises:
        ConfigError: its numbers are not known here.
    """
    if model not in BY_NAME:
        raise ConfigError(f"model {model!r}: random weights need an architecture that is known{hint(model, BY_NAME)}")
    return BY_NAME[model]
