"""Measure the speed of the harness, and write results/benchmarks, docs/performance.md and its plot.

`python -m tests.performance` on a quiet machine; an hour. CPU seconds of one thread, so that a second process does
little harm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.device import describe_device
from bench.files import write_whole
from tests.performance import measure
from tests.performance.cases import CASES
from tests.performance.document import DOCUMENT, PLOT, RESULTS, page, plot
from tests.performance.memory import peak_mib


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each ratio (default: 15)")
    rounds = parser.parse_args().rounds
    import torch

    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": {
            "device": describe_device("cpu"), "torch": torch.__version__, "python": platform.python_version(),
            "threads": 1,
        },
        "rounds": rounds, "batch": measure.BATCHES, "steps": [], "parts": [], "memory": [], "slopes": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["BENCH_CACHE"] = str(folder / "cache")
        for width in tqdm(measure.BATCHES, desc="widths"):
            for case in tqdm(CASES, desc="steps", leave=False):
                ratios = measure.step_ratios(case, width, rounds, folder)
                found["steps"].append(
                    {"case": case.name, "width": width, **{way: measure.shown(r) for way, r in ratios.items()}}
                )
        for name in tqdm(measure.PARTS, desc="parts"):
            found["parts"].append({"part": name, "bare": measure.shown(measure.part_ratio(name, rounds, folder))})
        for case in tqdm(CASES, desc="memory"):
            mib = {way: peak_mib(case.name, way, measure.MEMORY_BATCH) for way in ("harness", "straightforward")}
            found["memory"].append({"case": case.name, **mib})
        found["slopes"] = list(tqdm(measure.slopes(folder), desc="slopes"))
    write_whole(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(DOCUMENT, page(found).encode())
    plot(found, PLOT)
    print(f"{RESULTS}\n{DOCUMENT}\n{PLOT}")


if __name__ == "__main__":
    main()
