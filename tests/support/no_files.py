"""What may stand where a file belongs, and a limit of time for whoever opens it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def pipe(path: Path) -> None:
    """A pipe that nobody writes to, in the place of what is there."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def full_folder(path: Path) -> None:
    """A folder that holds something."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def listening_socket(path: Path) -> None:
    """A socket; the folder has to be entered, for its whole path may be too long."""
    path.unlink(missing_ok=True)
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(before)


@contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in whatever waits for longer."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"it has not ended within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
