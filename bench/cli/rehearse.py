"""Run every method, evaluation and checkpoint with random weights, and measure time, memory and utilisation."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli.experiment_options import OVERRIDES, add_experiment, read_experiment

EPILOG = f"""Nothing is downloaded. The default is SD3.5-Medium's shape at 512 pixels, for a GPU of 80 GB, 80 GB of
main memory and 40 GB of disk in $TMPDIR. Each part is a command of its own where time is short, and writes
OUT/PART.json. Minutes expected on one H100, compiling included; guesses, for no GPU has run it yet:
  bench rehearse --parts passes    4 to 8   the denoiser's passes: samples/s, share of the matrix peak, a profile
  bench rehearse --parts lora      5 to 9   every method by LoRA: time and memory of an update, evaluation, checkpoint
  bench rehearse --parts full      6 to 10  the same with all weights; a checkpoint there and back for the first method
  bench rehearse --parts full --methods soar        a part may be cut by methods; with another --out, or it is replaced
  bench rehearse --parts resume    2 to 4   a cell with LoRA is killed and goes on; nothing is compiled
  bench rehearse --parts rewards   4 to 9   the published scorers at real size: pictures/s and memory of each
  bench rehearse --model shrunken --runtime.resolution 64 --runtime.compile false --device cpu --out here

{OVERRIDES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--parts", default="passes,lora,full,resume", metavar="A,B",
        help="default: passes,lora,full,resume; each writes a file of its own; or rewards: the published scorers",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), metavar="FOLDER", help="default: results/gpu")
    add_experiment(parser, preset="rehearsal")


def run(args: argparse.Namespace) -> int:
    """Run the parts in turn; the findings of each are kept as soon as it ends. Returns 0."""
    experiment = read_experiment(args)
    from bench.parsing import split_list

    parts = split_list(args.parts)
    _check(experiment, parts)
    _measure(experiment, parts, args.out)
    return 0


def _check(experiment: Any, parts: Sequence[str]) -> None:
    from bench.api import ConfigError
    from bench.preflight.rehearsal.parts import PARTS
    from bench.suggest import hint

    for name in parts:
        if name not in PARTS:
            raise ConfigError(f"--parts: no part {name!r}{hint(name, PARTS)}")
    for chain in experiment.methods:
        if len(chain.stages) != 1:
            raise ConfigError(f"--methods: a rehearsal takes single methods, but {chain.label!r} is a chain")


def _measure(experiment: Any, parts: Sequence[str], out: Path) -> None:
    """Write `<out>/<part>.json` for each part."""
    from bench.device import describe_device, resolve_device
    from bench.files import write_whole
    from bench.paths import portable_values
    from bench.preflight.rehearsal.measure import matrix_peak
    from bench.preflight.rehearsal.parts import PARTS
    from bench.results.records.provenance import collect, source_hashes
    from bench.results.records.schema import dump

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
            "provenance": made_by, "settings": portable_values(experiment.resolved()),
        }  # fmt: skip
        path = out / f"{name}.json"
        write_whole(path, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
        print("\n".join([f"{name}: {seconds:.0f} s", *_lines(found), str(path)]), flush=True)


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
