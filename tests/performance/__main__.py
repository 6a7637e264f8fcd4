"""Measure the speed of the harness, and write results/benchmarks, docs/performance.md and its plot.

`python -m tests.performance` on a quiet machine; half an hour. CPU seconds of one thread, so that a second process does
little harm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.device import describe_device
from bench.files import write_whole
from tests.performance import measure
from tests.performance.cases import CASES
from tests.performance.document import DOCUMENT, PLOT, RESULTS, page, plot, read_figures
from tests.performance.memory import peak_mib


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each ratio (default: 15)")
    parser.add_argument(
        "--sections", default=",".join(SECTIONS), help="what to measure, the rest stays as it is (default: all)"
    )
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    machine = {"device": describe_device("cpu"), "torch": torch.__version__, "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["BENCH_CACHE"] = str(Path(temporary) / "cache")
        for name in args.sections.split(","):
            rows = list(tqdm(SECTIONS[name](args.rounds, Path(temporary)), desc=name))
            section = {"with": machine, "rounds": args.rounds, "rows": rows}
            write_whole(RESULTS / f"{name}.json", (json.dumps(section, indent=1) + "\n").encode())
    found = read_figures()
    write_whole(DOCUMENT, page(found).encode())
    if "slopes" in found:
        plot(found, PLOT)
    print(DOCUMENT)


def _steps(width: int, rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    for case in CASES:
        ratios = measure.step_ratios(case, width, rounds, folder)
        yield {"case": case.name, **{way: measure.shown(r) for way, r in ratios.items()}}


def _parts(rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    for name in measure.PARTS:
        yield {"part": name, "bare": measure.shown(measure.part_ratio(name, rounds, folder))}


def _memory(rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    sizes = measure.MEMORY_BATCH, measure.MEMORY_PICTURES
    for case in CASES:
        ways = ("harness", "straightforward")
        yield {"case": case.name, **{way: peak_mib(case.name, way, *sizes) for way in ways}}


def _slopes(rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    return measure.slopes(folder)


SECTIONS: dict[str, Callable[[int, Path], Iterator[dict[str, Any]]]] = {
    "steps-width1": partial(_steps, 1),
    "steps-width4": partial(_steps, 4),
    "parts": _parts,
    "memory": _memory,
    "slopes": _slopes,
}

if __name__ == "__main__":
    main()
