"""Results and errors of a scorer as JSON carries them: exactly, and judged only where they arrive.

A message is {"result": ...}, or {"error": kind of error, "message": text} for the errors that have a message of their
own. Encoded scores are {"dtype", "shape", "values"}: an array of any kind keeps type and shape, so that scores which
break the contract are refused in the same words wherever they were computed; `values` is null for what is no number,
and holds null for a picture that the reward abstains from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
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


def encode_scores(scores: Any) -> dict[str, Any]:
    """Whatever a reward returned, JSON-able; a float is written with as many digits as it has."""
    array = np.asarray(scores)
    values: list[Any] | None
    if array.dtype == object and all(value is None or isinstance(value, Real) for value in array.flat):
        values = [None if value is None else float(value) for value in array.flat]
    else:
        values = array.tolist() if array.dtype.kind in _NUMBERS else None
    return {"dtype": array.dtype.str, "shape": list(array.shape), "values": values}


def decode_scores(encoded: Any) -> np.ndarray:
    """The array that was encoded; one that held no numbers comes back empty, with its type and shape.

    Raises:
        PluginError: these are no encoded scores.
    """
    try:
        dtype, shape = np.dtype(encoded["dtype"]), tuple(encoded["shape"])
        if encoded["values"] is None:
            return np.broadcast_to(np.zeros((), dtype), shape)  # of any shape without its memory
        return np.array(encoded["values"], dtype).reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PluginError(f"expected scores with dtype, shape and values, got {str(encoded)[:80]} ({error})") from error


def encode_result(work: Callable[[], Any]) -> dict[str, Any]:
    """The message for what `work` returns or raises; an error that is no BenchError goes through."""
    try:
        return {"result": work()}
    except BenchError as error:
        return encode_error(error)


def encode_error(error: BenchError) -> dict[str, Any]:
    """The message for an error; a kind that has no name on the way becomes a PluginError."""
    kind = next((cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _KINDS), PluginError.__name__)
    return {"error": kind, "message": str(error)}


def decode_result(message: Mapping[str, Any], amend: Callable[[str], str] = str) -> Any:
    """The result that a message holds; `amend` may add to the text of an error.

    Raises:
        BenchError: the error that it holds.
    """
    if "error" in message:
        raise _KINDS.get(message["error"], PluginError)(amend(str(message["message"])))
    return message["result"]
