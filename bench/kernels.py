"""How the denoiser's blocks are run: compiled or not, and by which of torch's attention kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.api import ConfigError

_BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def attention(name: str) -> AbstractContextManager[None]:
    """Attention inside takes this kernel and no other; `auto` leaves the choice to torch."""
    return nullcontext() if name == "auto" else sdpa_kernel(_BACKENDS[name])


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
    # Few kinds of blocks, each with and without gradient and adapters; past the limit torch gives up without a word
    torch._dynamo.config.recompile_limit = 64
    for block in transformer.transformer_blocks:
        block.compile()


def _probe(x: torch.Tensor) -> torch.Tensor:
    """The least that needs a compiler."""
    return x * 2 + 1
