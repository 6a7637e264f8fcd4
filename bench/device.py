"""Which device a process works on, how it is named in records, and what it says when its memory is short."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.api import BenchError, ConfigError

_present: torch.device | None = None


class MemoryShortError(BenchError):
    """The device's memory did not hold what had to run."""


def resolve_device(requested: str) -> torch.device:
    """The device of `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`, ready for work.

    `auto` and `cuda` give the processes of one torchrun a device each, by LOCAL_RANK. On CUDA float32 stays float32:
    convolutions do not round to TF32, as matrix products do not by default.

    Raises:
        ConfigError: there is no such device.
    """
    global _present
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "cpu" or (requested == "auto" and count == 0):
        _present = torch.device("cpu")
        return _present
    if count == 0:
        built = (
            f"torch {torch.__version__} sees none" if torch.version.cuda else f"torch {torch.__version__} has no CUDA"
        )
        raise ConfigError(
            f"device {requested!r}: expected a CUDA device, but {built}: say --device cpu, or install another"
        )
    _, _, number = requested.partition(":")
    index = int(number or os.environ.get("LOCAL_RANK") or 0)
    if index >= count:
        raise ConfigError(f"device cuda:{index}: expected one of cuda:0 to cuda:{count - 1}; start fewer processes")
    torch.cuda.set_device(index)
    torch.backends.cudnn.allow_tf32 = False
    _present = torch.device("cuda", index)
    return _present


def present_device() -> torch.device:
    """The device that this process works on: what was resolved last, else that of `auto`."""
    return resolve_device("auto") if _present is None else _present


def describe_device(requested: str) -> str:
    """What a record says of the device: `cpu`, or `cuda` with the card's name, whichever number it has."""
    device = resolve_device(requested)
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@contextmanager
def memory_told(what: str, mend: str) -> Iterator[None]:
    """Turns the device's refusal of memory into one message. `what` ran; `mend` is what to try.

    Raises:
        MemoryShortError: the memory ran out inside.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).removeprefix("CUDA out of memory. ").split(". ")[0]
        raise MemoryShortError(f"{what} does not fit into the device's memory ({first}): {mend}") from error
