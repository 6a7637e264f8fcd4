"""From open_clip's names of a CLIP's tensors to those of transformers' CLIPModel."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from rewards._weights import refuse_other

# transformers' name: open_clip's; `self_attn.q_proj` and its like are thirds of one tensor.
_WHOLE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_MODULES = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.encoder.layers": "transformer.resblocks",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_THIRDS = ("q", "k", "v")


def to_transformers(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, Tensor]:
    """The tensors under the names of transformers' CLIPModel, whose shapes are given; `what` stands in messages.

    Raises:
        DataError: a tensor of open_clip's is missing, has another shape, or is not expected; by open_clip's names.
    """
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        theirs, third = _source(name)
        whole = shape if third is None else (3 * shape[0], *shape[1:])
        expected[theirs] = whole[::-1] if name in _TRANSPOSED else whole
    refuse_other({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, what)
    return {name: _taken(name, tensors).contiguous() for name in shapes}


def _taken(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    theirs, third = _source(name)
    if third is not None:
        return tensors[theirs].chunk(3)[third].clone()  # a file stores no two views of the same memory
    return tensors[theirs].T if name in _TRANSPOSED else tensors[theirs]


def _source(name: str) -> tuple[str, int | None]:
    """open_clip's name for a tensor, and which third of its rows is meant, where not the whole."""
    theirs = {**_WHOLE, **_TRANSPOSED}.get(name)
    if theirs is not None:
        return theirs, None
    for ours, other in _MODULES.items():
        name = name.replace(f"{ours}.", f"{other}.")
    part = re.fullmatch(r"(.*attn)\.([qkv])_proj\.(weight|bias)", name)
    return (name, None) if part is None else (f"{part[1]}.in_proj_{part[3]}", _THIRDS.index(part[2]))
