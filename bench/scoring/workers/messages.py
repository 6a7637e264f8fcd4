"""What a scorer gave, and what it raised, as JSON carries them: exactly, and judged only where they arrive.

`packed` scores are {"dtype", "shape", "values"}: an array of any kind keeps type and shape, so that what a scorer may
not give is told by the same words wherever it ran; `values` is null for what is no number. An answer is {"given": ...},
or {"refused": kind of error, "message": text} for the errors that have a message of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench import api
from bench.api import BenchError, PluginError

# Errors that keep their kind on the way
_KINDS = {
    kind.__name__: kind
    for kind in (api.ConfigError, api.PluginError, api.DataError, api.CheckpointMissing, api.NonFiniteError)
}
_NUMBERS = "fiub"


def pack_scores(scores: Any) -> dict[str, Any]:
    """Whatever a reward returned, JSON-able; a float is told by as many digits as it has."""
    array = np.asarray(scores)
    values = array.tolist() if array.dtype.kind in _NUMBERS else None
    return {"dtype": array.dtype.str, "shape": list(array.shape), "values": values}


def unpack_scores(answer: Any) -> np.ndarray:
    """The array that was packed; what held no numbers comes back empty, with its type and shape.

    Raises:
        PluginError: nothing was packed so.
    """
    try:
        dtype, shape = np.dtype(answer["dtype"]), tuple(answer["shape"])
        if answer["values"] is None:
            return np.broadcast_to(np.zeros((), dtype), shape)  # of any shape without its memory
        return np.array(answer["values"], dtype).reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PluginError(f"expected scores with dtype, shape and values, got {str(answer)[:80]} ({error})") from error


def answer_message(work: Callable[[], Any]) -> dict[str, Any]:
    """The answer that stands for what `work` returns or raises; what is no BenchError goes through."""
    try:
        return {"given": work()}
    except BenchError as error:
        kind = next((cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _KINDS), PluginError.__name__)
        return {"refused": kind, "message": str(error)}


def message_value(answer: Mapping[str, Any], add: Callable[[str], str] = str) -> Any:
    """What an answer holds; `add` may add to the message of an error.

    Raises:
        BenchError: what was raised there.
    """
    if "refused" in answer:
        raise _KINDS.get(answer["refused"], PluginError)(add(str(answer["message"])))
    return answer["given"]
