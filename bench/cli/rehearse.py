"""Runs the parts of a rehearsal in turn and keeps the findings of each in a file of its own as soon as it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.api import ConfigError
from bench.config.settings import Experiment
from bench.device import describe_device, resolve_device
from bench.files import write_whole
from bench.preflight.rehearsal.measure import matrix_peak
from bench.preflight.rehearsal.parts import PARTS
from bench.results.records.provenance import collect, source_hashes
from bench.results.records.schema import dump
from bench.suggest import hint


def main(experiment: Experiment, parts: Sequence[str], out: Path) -> int:
    """Write `<out>/<part>.json` for each part; returns 0.

    Raises:
        ConfigError: there is no such part.
        BenchError: a part of the harness did not stand the rehearsal.
    """
    for name in parts:
        if name not in PARTS:
            raise ConfigError(f"--parts: no part {name!r}{hint(name, PARTS)}")
    for chain in experiment.methods:
        if len(chain.stages) != 1:
            raise ConfigError(f"--methods: a rehearsal takes single methods, but {chain.label!r} is a chain")
    device = describe_device(experiment.device)
    peak = matrix_peak(resolve_device(experiment.device))
    print(f"{device}: {peak / 1e12:.4g} TFLOP/s in a bfloat16 matrix product", flush=True)
    made_by = dump(collect(device, experiment.train.precision, experiment.threads, source_hashes({})))
    del made_by["sources"]  # their common hash is enough
    for name in parts:
        start = time.perf_counter()
        found = PARTS[name](experiment, peak)
        seconds = time.perf_counter() - start
        about = {
            "part": name, "seconds": round(seconds, 1), "peak_tflops": peak / 1e12, "found": found,
            "provenance": made_by, "settings": experiment.resolved(),
        }  # fmt: skip
        path = out / f"{name}.json"
        write_whole(path, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
        print("\n".join([f"{name}: {seconds:.0f} s", *_lines(found), str(path)]), flush=True)
    return 0


def _lines(found: dict[str, Any], indent: str = "  ") -> list[str]:
    """The numbers of a part, one measurement in each line; lists (profiles) are left to the file."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        elif isinstance(value, dict):
            shown = ", ".join(f"{key} {_number(inner)}" for key, inner in value.items() if inner is not None)
            lines.append(f"{indent}{name}: {shown}")
        elif not isinstance(value, list):
            lines.append(f"{indent}{name}: {_number(value)}")
    return lines


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
