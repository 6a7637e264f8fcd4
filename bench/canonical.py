"""One text for equal values, and a short name of it: what records are written in, and settings are known by."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from bench.api import DataError, NonFiniteError

_SHOWN, _LONGEST = 3, 60  # differences that are told, and letters of a value


def canonical_json(value: Any, indent: int | None = None) -> str:
    """Deterministic JSON: sorted keys, shortest float repr, UTF-8 text. Numpy scalars become Python's.

    Raises NonFiniteError for NaN and infinities, naming the field; DataError for values that JSON cannot hold.
    """
    _refuse_non_finite(value, "")
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
    except TypeError as error:
        raise DataError(f"a record holds numbers, texts, lists and mappings only: {error}") from error


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hex digits that name a resolved configuration."""
    return blake2b(canonical_json(config).encode(), digest_size=8).hexdigest()


def told_differences(held: Any, new: Any) -> str:
    """Which settings differ, and how: the first few of them, `train.learning_rate is 0.1, was 0.2`; empty: none."""
    found = list(_differences(held, new, ""))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _differences(held: Any, new: Any, place: str) -> Iterator[str]:
    if isinstance(held, Mapping) and isinstance(new, Mapping):
        for name in sorted({*held, *new}):
            yield from _differences(held.get(name), new.get(name), f"{place}.{name}" if place else str(name))
    elif isinstance(held, list) and isinstance(new, list) and len(held) == len(new):
        for number, (before, now) in enumerate(zip(held, new, strict=True)):
            yield from _differences(before, now, f"{place}.{number}")
    elif held != new:
        yield f"{place} is {str(new)[:_LONGEST]}, was {str(held)[:_LONGEST]}"


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays, without importing numpy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def _refuse_non_finite(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_non_finite(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for number, item in enumerate(value):
            _refuse_non_finite(item, f"{where}[{number}]")
    elif isinstance(value, float) or hasattr(value, "tolist"):
        plain = _plain(value) if hasattr(value, "tolist") else value
        if isinstance(plain, list):
            _refuse_non_finite(plain, where)
        elif isinstance(plain, float) and not math.isfinite(plain):
            raise NonFiniteError(f"{where or 'a recorded value'} is {plain}: a record holds finite numbers only")


def hash_file(path: Path) -> str:
    """16 hex digits of a file's BLAKE2b."""
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=8)).hexdigest()
