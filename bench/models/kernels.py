"""How the denoiser's blocks are run: compiled or not, and by which of torch's attention kernels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.api import ConfigError
from bench.models.families.family import Family

_BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


class _Pinned(JointAttnProcessor2_0):
    """The attention of SD3's blocks by one kernel and no other, in gradient checkpointing's second pass too."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._backend = _BACKENDS[name]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the plain processor."""
        with sdpa_kernel(self._backend):
            return super().__call__(*args, **kwargs)


def choose_attention(transformer: Any, name: str, family: Family) -> None:
    """Let the denoiser's attention take this kernel of torch's and no other; `auto` leaves the choice to torch.

    A family without the option `attention` has refused all but `auto`.
    """
    if "attention" not in family.options:
        return
    transformer.set_attn_processor(JointAttnProcessor2_0() if name == "auto" else _Pinned(name))


def compile_blocks(transformer: Any, device: torch.device) -> None:
    """Let torch.compile run each block, which is compiled once for all; names of weights stay as they are.

    Raises:
        ConfigError: there is no compiler that works.
    """
    try:
        torch.compile(_probe)(torch.ones(1, device=device))
    except RuntimeError as error:  # how torch tells every failure of its compilers
        first = str(error).strip().splitlines()[0]
        needed = "triton" if device.type == "cuda" else "a C++ compiler (g++ or clang++) on the PATH"
        raise ConfigError(
            f"runtime.compile: torch.compile does not work here ({first}): install {needed}, or leave it off"
        ) from error
    # Few kinds of blocks, each with and without gradient and adapters, for every size of picture that is trained on;
    # past the limit torch gives up without a word
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1024
    for block in transformer.transformer_blocks:
        # Each batch size has a graph of its own: a dynamic one beside it could be taken by one of the two passes of
        # gradient checkpointing and not by the other
        block.compile(dynamic=False)


def _probe(x: torch.Tensor) -> torch.Tensor:
    """The least that needs a compiler."""
    return x * 2 + 1
