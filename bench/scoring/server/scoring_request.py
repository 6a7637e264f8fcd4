"""What client and server agree on: a batch of pictures as bytes, and the limits of a request.

A body is a safetensors file of two tensors, and nothing that could run. `images` is uint8 (B, H, W, 3), `fields` the
UTF-8 of a JSON object {"prompts": [B], "metadata": [B], "scorer": {"version", "fingerprint", "code"}}, where the
scorer is the one that the client expects. Responses are the messages of `bench.scoring.workers.messages`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.api import DataError
from bench.reading import parse_json

TOKEN_VARIABLE = "BENCH_REWARD_TOKEN"


@dataclass(frozen=True)
class RequestLimits:
    """Of one request: pictures, bytes of its body, and seconds for its body to arrive and for its scoring each."""

    pictures: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class ScoringRequest:
    """Pictures uint8 (B, H, W, 3) with what belongs to each, and the scorer that the client expects."""

    images: np.ndarray
    prompts: list[str]
    metadata: list[dict[str, Any]]
    scorer: dict[str, str]


def encode_request(
    images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]], scorer: Mapping[str, str]
) -> bytes:
    """The body of a request."""
    from safetensors.numpy import save

    fields = {"prompts": list(prompts), "metadata": [dict(row) for row in metadata], "scorer": dict(scorer)}
    text = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    return save({"images": np.ascontiguousarray(images), "fields": text})


def decode_request(body: bytes) -> ScoringRequest:
    """The inverse of `encode_request`, for a body that anybody may have sent.

    Raises:
        DataError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(body)
        fields = parse_json(tensors["fields"].tobytes())
        request = ScoringRequest(tensors["images"], fields["prompts"], fields["metadata"], fields["scorer"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"expected a safetensors body with the tensors images and fields, got {len(body)} bytes of something else "
            f"({type(error).__name__}: {error})"
        ) from error
    images = request.images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(f"expected pictures uint8 (B, H, W, 3), got {images.dtype} {images.shape}")
    for name, rows, kind in (("prompts", request.prompts, str), ("metadata", request.metadata, dict)):
        is_list = isinstance(rows, list) and all(isinstance(row, kind) for row in rows)
        if not is_list or len(rows) != len(images):
            raise DataError(f"expected {name} as a list with one {kind.__name__} for each of {len(images)} pictures")
    if not isinstance(request.scorer, dict):
        raise DataError("expected scorer as version, fingerprint and code")
    return request


def mebibytes(size: int) -> int:
    """The smallest --max-mb that lets in a body of `size` bytes."""
    return max(1, math.ceil(size / (1 << 20)))
