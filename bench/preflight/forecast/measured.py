"""What updates spent when they were measured on this machine, kept between calls: measuring takes many seconds.

A measurement holds for the settings, the sources, the libraries and the base model that it was made with.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench import registry
from bench.canonical import canonical_json, config_hash, hash_file
from bench.config.settings import Experiment
from bench.datasets.base_model import base_model
from bench.files import write_whole
from bench.paths import cache_folder
from bench.plugin_code import code_files
from bench.results.records.provenance import DISTRIBUTIONS, PACKAGES, ROOT

__all__ = ["Measured", "keep_measured", "kept_measured"]


@dataclass(frozen=True)
class Measured:
    """Forward passes a second, and what an update of each stage spends by unit, by method; when: UTC, to the minute."""

    rate: float
    spent: dict[str, list[dict[str, float]]]
    when: str


_MEASURED: TypeAdapter[Measured] = TypeAdapter(Measured)


def kept_measured(experiment: Experiment) -> Measured | None:
    """What was measured for such an experiment before; None where nothing was, or its file is damaged."""
    try:
        return _MEASURED.validate_json(_place(experiment).read_bytes())
    except (OSError, ValidationError):
        return None


def keep_measured(experiment: Experiment, rate: float, spent: dict[str, list[dict[str, float]]]) -> None:
    """Keep what was measured; raises DataError where the cache cannot be written."""
    found = Measured(rate, spent, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    write_whole(_place(experiment), canonical_json(asdict(found)).encode())


def _place(experiment: Experiment) -> Path:
    return cache_folder() / "plans" / f"{config_hash(_made_with(experiment))}.json"


def _made_with(experiment: Experiment) -> dict[str, Any]:
    """All that a measurement depends on."""
    stages = [stage for chain in experiment.methods for stage in chain.stages]
    own = [file for stage in stages for file in code_files(registry.load_method(stage.source))]
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    base = base_model(experiment.model)
    files = sorted(path for path in base.rglob("*") if path.is_file())
    return {
        "experiment": json.loads(canonical_json(experiment.resolved())),
        "sources": sorted(hash_file(path) for path in {*sources, *own}),
        "base": [[path.relative_to(base).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "versions": [_version(name) for name in DISTRIBUTIONS],
        "machine": [platform.machine(), platform.processor(), os.cpu_count()],
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
