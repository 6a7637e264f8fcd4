"""Who works in a folder: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from bench.api import DataError
from bench.files import told
from bench.paths import inside

_RETRY_SECONDS = 0.1


@contextmanager
def held(path: Path, wait: float = 0.0) -> Iterator[str]:
    """Hold the lock file `path`; gives who held it and ended without letting go, or an empty text.

    `wait` is how many seconds to wait for a holder that is about to end.

    Raises:
        DataError: somebody else holds it, and since when; or it cannot be written.
    """
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = inside(path.parent, path.name).open("a+", encoding="utf-8")
    with file:
        _acquire(file, path, wait)
        stale = _who(file)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        _write(file, path, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        try:
            yield stale
        finally:
            _write(file, path, "")


def _acquire(file: TextIOWrapper, path: Path, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise DataError(
                    f"{path.parent} is held by {_who(file) or 'another process'}: wait for it, stop it, or give this "
                    "run another --name"
                ) from error
        time.sleep(_RETRY_SECONDS)


def _who(file: TextIOWrapper) -> str:
    """What the holder wrote about itself; empty where it let go in order, or is just about to write."""
    file.seek(0)
    try:
        who = json.load(file)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _write(file: TextIOWrapper, path: Path, text: str) -> None:
    with told(path):
        file.seek(0)
        file.truncate()
        file.write(text)
        file.flush()
