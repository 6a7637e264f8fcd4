"""A run that goes on without the terminal that started it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.api import DataError
from bench.files import disk_errors
from bench.locks import lock_holder
from bench.paths import inside

LOG = "run.log"


def detach(arguments: Sequence[str], folder: Path) -> tuple[int, Path]:
    """Start `bench` with these arguments in a session of its own; gives its process id and its log.

    The log lies in `folder`, results/<experiment>; a run that goes on adds to it.

    Raises:
        DataError: another run holds the folder, it is a link, or the log cannot be written.
    """
    inside(folder.parent, folder.name)
    run = lock_holder(folder / "run.lock")
    if run is not None and run.lives:
        raise DataError(f"{folder} is held by {run}: wait for it, stop it, or give this run another --name")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with inside(folder, LOG).open("ab") as log:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            log.write(f"== {now}  bench {shlex.join(arguments)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "bench", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
    return process.pid, folder / LOG
