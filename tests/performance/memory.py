"""The most memory that a method's update takes beside the loaded model: one child process for each that is asked for.

`python -m tests.performance.memory CASE harness|straightforward BATCH PICTURES` prints MiB.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.performance.cases import CASES, harness, straightforward
from tests.performance.models import fixtures_of


def peak_mib(case: str, way: str, batch: int, pictures: int) -> float:
    """MiB above the loaded model at most, in a process of its own."""
    command = [sys.executable, "-m", "tests.performance.memory", case, way, str(batch), str(pictures)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main(name: str, way: str, batch: int, pictures: int) -> None:
    """Measure in this process."""
    import torch

    torch.set_num_threads(1)
    (case,) = (case for case in CASES if case.name == name)
    with tempfile.TemporaryDirectory() as folder:
        stage = case.stage(fixtures_of(Path(folder)), batch, pictures)
        phase = {"harness": harness, "straightforward": straightforward}[way](stage)
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        for _ in range(2):
            phase()
        print(f"{_status('VmHWM') - before:.1f}")


def _status(name: str) -> float:
    """MiB of one line of this process's status."""
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
