"""A batch of pictures as bytes: a safetensors file of two tensors, and nothing that could run.

`images` is uint8 (B, H, W, 3), `words` the UTF-8 of a JSON object {"prompts": [B], "metadata": [B], "scorer":
{"version", "fingerprint"}}, where the scorer is what the client takes the server's for. Answers are those of
`bench.scoring.workers.messages`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.api import DataError

REQUEST_ID = "X-Request-Id"  # header: the same for every try of one request
TOKEN_VARIABLE = "BENCH_REWARD_TOKEN"


@dataclass(frozen=True)
class ScoringRequest:
    """Pictures uint8 (B, H, W, 3) with what belongs to each, and the scorer that the client means."""

    images: np.ndarray
    prompts: list[str]
    metadata: list[dict[str, Any]]
    scorer: dict[str, str]


def encode_request(
    images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]], scorer: Mapping[str, str]
) -> bytes:
    """The body of a request."""
    from safetensors.numpy import save

    words = {"prompts": list(prompts), "metadata": [dict(row) for row in metadata], "scorer": dict(scorer)}
    text = np.frombuffer(json.dumps(words).encode(), np.uint8)
    return save({"images": np.ascontiguousarray(images), "words": text})


def mebibytes(size: int) -> int:
    """The smallest --max-mb that lets in a body of `size` bytes."""
    return max(1, math.ceil(size / (1 << 20)))


def decode_request(body: bytes) -> ScoringRequest:
    """The inverse of `encode`, for a body that anybody may have sent.

    Raises:
        DataError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(body)
        words = json.loads(tensors["words"].tobytes())
        batch = ScoringRequest(tensors["images"], words["prompts"], words["metadata"], words["scorer"])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"expected a safetensors body with the tensors images and words, got {len(body)} bytes of something else "
            f"({type(error).__name__}: {error})"
        ) from error
    images = batch.images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(f"expected pictures uint8 (B, H, W, 3), got {images.dtype} {images.shape}")
    for name, rows, kind in (("prompts", batch.prompts, str), ("metadata", batch.metadata, dict)):
        is_list = isinstance(rows, list) and all(isinstance(row, kind) for row in rows)
        if not is_list or len(rows) != len(images):
            raise DataError(f"expected {name} as a list with one {kind.__name__} for each of {len(images)} pictures")
    if not isinstance(batch.scorer, dict):
        raise DataError("expected scorer as version and fingerprint")
    return batch
